/** The lines that people copy into a shell. No DOM. */

export type Client = 'lxc' | 'incus';

/** Where a page came from: what `location` tells of it. */
export interface Address {
  protocol: string;
  /** With the port, where that is not the usual one. */
  host: string;
  hostname: string;
  pathname: string;
}

/** How clients reach the server. */
export interface Server {
  /** `https://host[:port][/path]` */
  url: string;
  /** `host:port`, for a TLS connection. */
  endpoint: string;
  /** Whether the page came over HTTPS: else the port is a guess. */
  isSure: boolean;
}

/** The server of a page. Clients take simplestreams servers over HTTPS only. */
export function serverOf({ protocol, host, hostname, pathname }: Address): Server {
  const isSure = protocol === 'https:';
  const name = isSure ? host : hostname;
  const folder = pathname.replace(/\/[^/]*$/, '');
  const hasPort = name !== hostname;
  return { url: `https://${name}${folder}`, endpoint: hasPort ? name : `${name}:443`, isSure };
}

/** Names that clients have for remotes of their own. */
const takenNames = /^(?:images|local|ubuntu|ubuntu-.*|www)$/;

/** What to call the server: the first part of its name that says something. */
export function suggestedRemote(hostname: string): string {
  if (/^[\d.]+$/.test(hostname) || hostname.startsWith('[')) return cleanRemote(`host-${hostname}`);
  const labels = hostname.split('.').map(cleanRemote);
  return labels.find((label) => label !== '' && !takenNames.test(label)) ?? 'image-server';
}

/** `name` with no other characters than clients and file names take; '' where nothing is left. */
export function cleanRemote(name: string): string {
  return name
    .normalize('NFKD')
    .replace(/[^A-Za-z0-9._]+/g, '-')
    .replace(/^[^A-Za-z0-9]+|[^A-Za-z0-9]+$/g, '')
    .slice(0, 63);
}

/** `text` as one word of a shell (POSIX, 2.2). */
export function shellWord(text: string): string {
  return /^[A-Za-z0-9_./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Whether what is shown of `text` is what a shell gets: no line ends, nothing unseen, nothing that turns text round. */
export function isPlain(text: string): boolean {
  return !/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/u.test(text);
}

/** A version with this beginning of a fingerprint is the one that is meant. */
const shortFingerprint = 12;

export interface LaunchOptions {
  client: Client;
  remote: string;
  isVirtualMachine: boolean;
}

/** Starts what an alias stands for; `undefined` for one that no one should paste. */
export function launchByAlias(alias: string, options: LaunchOptions): string | undefined {
  return isPlain(alias) ? launch(alias, options) : undefined;
}

/** Starts this very version. */
export function launchByFingerprint(fingerprint: string, options: LaunchOptions): string {
  return launch(fingerprint.slice(0, shortFingerprint), options);
}

function launch(image: string, { client, remote, isVirtualMachine }: LaunchOptions): string {
  return `${client} launch ${shellWord(`${remote}:${image}`)}${isVirtualMachine ? ' --vm' : ''}`;
}

export interface RemoteLines {
  /** Takes the server's certificate for what it shows now: only for one that no known authority has signed. */
  trust: string;
  /** Shows what has been taken. */
  show: string;
  add: string;
  list: string;
}

/** Folders of the configuration, which hold the certificates of remotes. */
const folders: Record<Client, string> = { lxc: '~/.config/lxc', incus: '~/.config/incus' };

/** Where the snap of LXD has it. */
export const snapFolder = '~/snap/lxd/common/config';

/** How to make the server known as `remote`, which {@link cleanRemote} has cleaned. */
export function remoteLines(
  { url, endpoint }: Pick<Server, 'url' | 'endpoint'>,
  { client, remote }: { client: Client; remote: string },
): RemoteLines {
  const folder = `${folders[client]}/servercerts`;
  const file = `${folder}/${remote}.crt`;
  return {
    trust: `mkdir -p ${folder} && openssl s_client -connect ${shellWord(endpoint)} </dev/null 2>/dev/null | openssl x509 > ${file}`,
    show: `openssl x509 -noout -fingerprint -sha256 -in ${file}`,
    add: `${client} remote add ${remote} ${shellWord(url)} --protocol simplestreams`,
    list: `${client} image list ${remote}:`,
  };
}
