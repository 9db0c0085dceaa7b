import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ask } from '../support/api.js';
import { daemonConfig, emptyRoot, startDaemon } from '../support/daemon.js';

const redirect = { config: 'server.redirect = true' };

test('nginx is to ask while the daemon runs and redirects clients', async (t) => {
  const root = await emptyRoot(t);
  const flag = join(root, 'run/redirect');
  const daemon = await startDaemon(t, root);
  assert.equal(existsSync(flag), false);
  await daemonConfig(root, redirect);
  await daemon.call('reload');
  assert.equal(existsSync(flag), true);
  await daemonConfig(root);
  await daemon.call('reload');
  assert.equal(existsSync(flag), false);
  await daemonConfig(root, redirect);
  await daemon.call('reload');
  assert.equal(await daemon.end(), 0);
  assert.deepEqual([existsSync(flag), existsSync(join(root, 'run/http.sock'))], [false, false]);
});

test('the flag is there from the start, and what a crash left of it goes', async (t) => {
  const root = await emptyRoot(t);
  const flag = join(root, 'run/redirect');
  const first = await startDaemon(t, root, redirect);
  assert.equal(existsSync(flag), true);
  await first.end('SIGKILL');
  assert.equal(existsSync(flag), true);
  await startDaemon(t, root);
  assert.equal(existsSync(flag), false);
});

test('the daemon tells nginx which file to send', async (t) => {
  const root = await emptyRoot(t);
  await startDaemon(t, root, redirect);
  const path = 'images/e/r/amd64/t/20260103/rootfs.squashfs';
  const answer = await ask(join(root, 'run/http.sock'), `/${path}`);
  assert.deepEqual([answer.status, answer.headers['x-accel-redirect']], [200, `/.files/${path}`]);
});
