/** How to make this server known to a client. */

import { find, make } from '../dom.js';
import { type Client, cleanRemote, remoteLines, type Server, snapFolder } from './commands.js';
import { commandLine } from './copy.js';
import type { Choice } from './rows.js';

const clientNames: Record<Client, string> = { lxc: 'LXD', incus: 'Incus' };

export interface RemoteOptions {
  server: Server;
  /** What is chosen to begin with. */
  choice: Choice;
  /** The remote's name where the reader gives none. */
  suggested: string;
  onChange: (choice: Choice) => void;
}

export interface RemoteHelp {
  /** Takes over what was chosen elsewhere. */
  show(choice: Choice): void;
}

export function createRemoteHelp({
  server,
  choice,
  suggested,
  onChange,
}: RemoteOptions): RemoteHelp {
  let chosen = choice;
  const steps = make('ol', { class: 'steps' });
  const radios = (['lxc', 'incus'] as const).map((client) => {
    const input = make('input', { type: 'radio', name: 'client', value: client });
    input.addEventListener('change', () => change({ client }));
    return { input, label: make('label', {}, input, `${clientNames[client]} (${client})`) };
  });
  const name = make('input', {
    id: 'remote-name',
    autocomplete: 'off',
    spellcheck: 'false',
    maxlength: '63',
  });
  name.addEventListener('input', () => change({ remote: cleanRemote(name.value) || suggested }));
  name.addEventListener('change', () => {
    name.value = chosen.remote;
  });
  const settings = make(
    'div',
    { class: 'settings' },
    make('fieldset', {}, make('legend', {}, 'Client'), ...radios.map(({ label }) => label)),
    make(
      'div',
      { class: 'field' },
      make('label', { for: 'remote-name' }, 'Name for this server'),
      name,
    ),
  );
  find('remote-body', HTMLDivElement).append(settings, steps);
  find('remote', HTMLDetailsElement).hidden = false;
  show(choice);
  return { show };

  function change(part: Partial<Choice>): void {
    chosen = { ...chosen, ...part };
    write();
    onChange(chosen);
  }

  function show(next: Choice): void {
    chosen = next;
    name.value = next.remote;
    for (const { input } of radios) input.checked = input.value === next.client;
    write();
  }

  function write(): void {
    steps.replaceChildren(...stepsFor(server, chosen));
  }
}

function stepsFor(server: Server, { client, remote }: Choice): HTMLElement[] {
  const lines = remoteLines(server, { client, remote });
  const snap =
    client === 'lxc'
      ? [
          make(
            'p',
            { class: 'muted small' },
            'LXD from the snap keeps its configuration in ',
            make('code', {}, snapFolder),
            ': there it is that folder’s ',
            make('code', {}, 'servercerts'),
            '.',
          ),
        ]
      : [];
  const guess = server.isSure
    ? []
    : [
        make(
          'p',
          { class: 'notice warn' },
          'This page came over plain HTTP. The lines take it that the server answers HTTPS on its usual port, 443.',
        ),
      ];
  return [
    step(
      ...guess,
      make(
        'p',
        {},
        'Only if the server’s certificate is its own, not of an authority that your system trusts: save it where the client looks for it.',
      ),
      commandLine(lines.trust, 'the line that saves the certificate'),
      make(
        'p',
        {},
        'Then compare its fingerprint with the one that the server’s administrator gives.',
      ),
      commandLine(lines.show, 'the line that shows the fingerprint of the certificate'),
      ...snap,
    ),
    step(make('p', {}, 'Add the server.'), commandLine(lines.add, 'the line that adds the server')),
    step(
      make('p', {}, 'See what it has.'),
      commandLine(lines.list, 'the line that lists the images'),
    ),
  ];
}

function step(...children: HTMLElement[]): HTMLElement {
  return make('li', {}, ...children);
}
