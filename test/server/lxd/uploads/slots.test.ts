/** How much may be under way at once. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ServerError } from '../../../../src/errors.js';
import { createSlots } from '../../../../src/server/lxd/uploads/slots.js';

const isBusy = (error: unknown) => error instanceof ServerError && error.code === 'BUSY';

test('a place that is given back twice is free once', () => {
  const slots = createSlots('uploads', { all: 2, each: 1 });
  const free = slots.take('a');
  free();
  free();
  slots.take('a');
  assert.throws(() => slots.take('a'), isBusy);
  slots.take('b');
  assert.throws(() => slots.take('c'), isBusy);
});

test('a client that is refused takes no place', () => {
  const slots = createSlots('uploads', { all: 2, each: 1 });
  const free = slots.take('a');
  assert.throws(() => slots.take('a'), isBusy);
  free();
  slots.take('a');
  slots.take('b');
});
