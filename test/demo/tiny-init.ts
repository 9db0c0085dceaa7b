/**
 * The smallest program that can be a container's init, assembled here: it needs no file but itself.
 *
 * It blocks the signals that stop or restart a container, waits until one comes, and ends:
 *
 *     rt_sigprocmask(SIG_BLOCK, &stopSignals, NULL, 8);
 *     while (rt_sigtimedwait(&stopSignals, NULL, NULL, 8) < 0) {}
 *     exit(0);
 *
 * (The kernel drops signals that an init neither handles nor blocks, so waiting with pause() would not do.)
 * Formats: ELF-64, https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html; the kernel's system calls.
 */

/** Linux's numbers: SIGINT (restart), SIGTERM, SIGPWR (halt), and SIGRTMIN+3 (halt, as systemd has it). */
const stopSignals = [2, 15, 30, 37];

/** The program for a processor as Node names it, or `undefined` for one that is not known here. */
export function tinyInit(arch: string): Buffer | undefined {
  if (arch === 'x64') return elf(62, x86Code());
  if (arch === 'arm64') return elf(183, armCode());
  return undefined;
}

/** A static executable of one readable and executable segment: the headers, then `code`, where it starts. */
function elf(machine: number, code: Buffer): Buffer {
  const headers = Buffer.alloc(64 + 56);
  const address = 0x400000;
  const size = headers.length + code.length;
  headers.write('\x7fELF\x02\x01\x01', 'latin1');
  headers.writeUInt16LE(2, 16); // executable
  headers.writeUInt16LE(machine, 18);
  headers.writeUInt32LE(1, 20);
  headers.writeBigUInt64LE(BigInt(address + headers.length), 24); // entry point
  headers.writeBigUInt64LE(64n, 32); // program headers: one of 56 bytes, from 64
  headers.writeUInt16LE(64, 52);
  headers.writeUInt16LE(56, 54);
  headers.writeUInt16LE(1, 56);
  headers.writeUInt32LE(1, 64); // to be loaded
  headers.writeUInt32LE(5, 68); // readable and executable
  headers.writeBigUInt64LE(BigInt(address), 80);
  headers.writeBigUInt64LE(BigInt(address), 88);
  headers.writeBigUInt64LE(BigInt(size), 96);
  headers.writeBigUInt64LE(BigInt(size), 104);
  headers.writeBigUInt64LE(0x10000n, 112); // alignment
  return Buffer.concat([headers, code]);
}

/** The signal set, as the kernel takes it: bit n-1 stands for signal n. */
function signalMask(): Buffer {
  const mask = Buffer.alloc(8);
  mask.writeBigUInt64LE(
    stopSignals.reduce((bits, signal) => bits | (1n << BigInt(signal - 1)), 0n),
  );
  return mask;
}

function x86Code(): Buffer {
  // biome-ignore format: one instruction a line
  const code = [
    0xb8, 14, 0, 0, 0,              //       mov eax, 14        rt_sigprocmask
    0x31, 0xff,                     //       xor edi, edi       SIG_BLOCK
    0x48, 0x8d, 0x35, 41, 0, 0, 0,  //       lea rsi, [mask]
    0x31, 0xd2,                     //       xor edx, edx
    0x41, 0xba, 8, 0, 0, 0,         //       mov r10d, 8
    0x0f, 0x05,                     //       syscall
    0xb8, 128, 0, 0, 0,             // wait: mov eax, 128       rt_sigtimedwait
    0x48, 0x8d, 0x3d, 19, 0, 0, 0,  //       lea rdi, [mask]
    0x31, 0xf6,                     //       xor esi, esi
    0x31, 0xd2,                     //       xor edx, edx
    0x0f, 0x05,                     //       syscall            r10 is 8 still
    0x85, 0xc0,                     //       test eax, eax
    0x78, 0xea,                     //       js wait
    0xb8, 60, 0, 0, 0,              //       mov eax, 60        exit
    0x31, 0xff,                     //       xor edi, edi
    0x0f, 0x05,                     //       syscall
  ]; // mask:
  return Buffer.concat([Buffer.from(code), signalMask()]);
}

function armCode(): Buffer {
  const move = (register: number, value: number) => 0xd2800000 | (value << 5) | register;
  /** `adr register, .+words`: the address that many instructions further on. */
  const address = (register: number, words: number) => 0x10000000 | (words << 5) | register;
  const systemCall = 0xd4000001;
  /** `tbnz x0, #63, .+words`: goes there where x0 is negative. */
  const ifNegative = (words: number) => 0xb7f80000 | ((words & 0x3fff) << 5);
  // biome-ignore format: one system call a line
  const words = [
    move(0, 0), address(1, 15), move(2, 0), move(3, 8), move(8, 135), systemCall, // rt_sigprocmask
    address(0, 10), move(1, 0), move(2, 0), move(3, 8), move(8, 137), systemCall, // rt_sigtimedwait
    ifNegative(-6),
    move(0, 0), move(8, 93), systemCall, // exit
  ];
  const code = Buffer.alloc(words.length * 4);
  for (const [index, word] of words.entries()) code.writeUInt32LE(word >>> 0, index * 4);
  return Buffer.concat([code, signalMask()]);
}
