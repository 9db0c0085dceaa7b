/**
 * What each command does, in full: its own --help shows this, and the man page. Options stand between `.
 */
export const descriptions = {
  init: `Make the folders, the TLS key and certificate and the nginx site, and publish what is there. What exists
already is kept.`,
  update: `Bring the documents in streams/v1 up to date with the tree. Where a daemon runs on this tree, it does the
work.`,
  watch: `Run the daemon, until told to end: watch the tree and publish what lands in it as soon as it has settled,
bring mirrors up to date, serve over HTTPS, and do what the other commands ask for. One daemon works on a root.
SIGHUP has it read its configuration again; SIGTERM ends it.`,
  serve: `Serve images and documents over HTTPS until told to end. SIGHUP has it read the configuration and the
certificate again, without an end to what is being downloaded.`,
  list: 'List published products and versions.',
  status: `Show what the daemon does, what is published, how the mirrors are, and what is held back with reason and
cure. Without a daemon, show what the documents hold. On a terminal lists are as long as the screen has room for;
\`--json\` has all of them. With \`--watch\` it is shown until Ctrl+C, also while no daemon runs; with \`--json\`
as well, each time a document on a line of its own.`,
  reload: `Have the running daemon read its configuration again, and show which keys changed. A configuration that says
something wrong is refused, and the daemon goes on with the one before.`,
  import: `Put an image into the tree and publish it: its metadata archive and its root file system, or one file that has
both. Where it goes follows from its metadata, as with an upload; \`--property\` says something else, as
os=ubuntu, release=noble, variant=cloud or architecture=arm64. Where a daemon runs on this tree, it is sent the files,
which only whoever runs the command need be able to read.`,
  verify: `Read every published file again and compare it with the documents. With \`--repair\`, files with other
content are set aside, under hidden names beside their places, and what is whole is published. A file that was
replaced since the last publication is no damage: it is published as it is now. Where a daemon runs on this tree, it
does the repair. With \`--mirror\`, every file of a mirror is read back in place of the tree, and what is missing,
damaged or too much is told; \`--repair\` sends what it lacks then.`,
  remove: `Take versions out, or all versions of a product: out of the documents at once, so that no client finds them
any more, and their files after the time in \`publish.removal_grace\`, for clients that have older documents. Until then
a version comes back when the file .removed in its folder is deleted. Name env/release/arch/type/version, or
env/release/arch/type for a product, or a fingerprint. Where one of several names is wrong, nothing is done.`,
  prune: `Take out the versions that \`[retention]\` of the configuration does not keep, as the daemon does at the hours
of \`schedule.prune\`. The newest version of a product always stays. With \`--dry-run\`, only show which.`,
  'mirror list': `Show how the mirrors are: what they have, how far they are behind, the last failure and the next try.
Without a daemon, how they were.`,
  'mirror sync':
    'Bring these mirrors up to date now, or all of them, and look for what was changed there by hand.',
  'mirror trust': `Show the host key of a mirror, ask, and record it in the file known_hosts of that mirror, or in the
user's own. Where a daemon runs on this tree, it does the work, as its own user.`,
  'trust add': `Print a token that has one client trusted under this name, with the line to paste there. It can be used
once, within 24 hours. Where a daemon uses the same state folder, it does the work.`,
  'trust list': `Show who may upload: names, fingerprints, when they were added and last seen, and when their
certificates end; and the tokens that have not been used.`,
  'trust remove': 'Trust this client no more, nor a token that was made for it.',
} as const satisfies Record<string, string>;
