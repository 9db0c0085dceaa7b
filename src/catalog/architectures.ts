/** Architectures as the tree names them (Debian's names) and as LXD and Incus do (`shared/osarch`). Pure. */

/** The name in the tree, LXD's own name, and others that LXD takes for it. */
const architectures: readonly (readonly [tree: string, lxd: string, ...others: string[]])[] = [
  ['amd64', 'x86_64', 'generic_64'],
  ['arm64', 'aarch64'],
  ['i386', 'i686', 'i586', '386', 'x86', 'generic_32'],
  ['armhf', 'armv7l', 'armhfp', 'armv7a_hardfp_sha', 'armv7a_vfpv3_hardfp', 'arm'],
  ['armel', 'armv6l'],
  ['armv8l', 'armv8l'],
  ['ppc64el', 'ppc64le'],
  ['ppc64', 'ppc64', 'powerpc64'],
  ['powerpc', 'ppc'],
  ['s390x', 's390x'],
  ['riscv64', 'riscv64'],
  ['riscv32', 'riscv32'],
  ['mips', 'mips', 'mipsel', 'mipsle'],
  ['mips64', 'mips64', 'mips64el', 'mips64le'],
  ['loong64', 'loongarch64'],
];

const treeNames = new Map(
  architectures.flatMap(([tree, ...others]) => [tree, ...others].map((name) => [name, tree])),
);
const lxdNames = new Map(architectures.map(([tree, lxd]) => [tree, lxd]));

/** What the tree calls the architecture `name`, whichever of its names that is; `undefined` for none. */
export function treeArchitecture(name: string): string | undefined {
  return treeNames.get(name.toLowerCase());
}

/** What LXD calls the architecture that the tree calls `arch`; one that it does not know stays as it is. */
export function lxdArchitecture(arch: string): string {
  return lxdNames.get(treeArchitecture(arch) ?? arch) ?? arch;
}
