import type { FastifyServerOptions } from 'fastify';

const none = () => {
  throw new Error('A route has a JSON schema, which nothing here compiles');
};

/**
 * For Fastify: no route has a JSON schema, for what comes in is checked with valibot. So Fastify does not load its
 * compilers, which are half of it, and a daemon at rest is smaller.
 */
export const noSchemas = {
  compilersFactory: { buildValidator: none, buildSerializer: none },
} satisfies FastifyServerOptions['schemaController'];
