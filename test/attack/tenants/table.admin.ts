import { randomUUID } from 'node:crypto';
import { LIMIT_NAMES } from '../../../src/core/limits.ts';
import {
  admin,
  alice,
  attempt,
  cursor,
  FIXED,
  LABEL,
  NO_SCOPE,
  NOT_FOUND,
  NUMBER,
  operator,
  TIME,
  type Attempt,
  type Table,
} from './attempt.ts';
import type { Stage, Tenant } from './stage.ts';

const ACT = 'audit_log';
const KEY_MATERIAL = 'is part of a public key';
const OF_TOKENS = 'is what tokens say; the registration that they are held against is found by their `iss`';

/**
 * What `tenants:admin` is for: a right over the installation, which no tenant's own caller has. Whoever is without it
 * learns nothing of whether there is such a thing.
 */
export const aboveTenants = (what: string, foreign: (stage: Stage) => string): readonly Attempt[] => [
  attempt({ what: `${what}, as an operator`, as: operator, foreign, answer: NO_SCOPE }),
  attempt({ what: `${what}, as a user`, as: alice, foreign, answer: NO_SCOPE }),
];

const TENANT = aboveTenants('another tenant', ({ globex }) => globex.id);
const ISSUER = aboveTenants('an issuer of another tenant', ({ globex }) => globex.issuerId);

const settingsOfTenant = {
  ...Object.fromEntries(LIMIT_NAMES.map((name) => [`body /limits/${name}`, NUMBER])),
  'body /name': LABEL,
  'body /keptDays': NUMBER,
  'body /corsOrigins/*': 'is an origin, which several tenants may allow',
} as const;

const registration = {
  'body /iss': aboveTenants('the `iss` of another tenant', ({ globex }) => globex.issuer.iss),
  'body /name': LABEL,
  'body /jwksUrl': 'is where keys are fetched from; it names nothing that is stored here',
  'body /keys/**': KEY_MATERIAL,
  'body /secret': 'is a secret, which names nothing',
  'body /algorithms/*': FIXED,
  'body /audiences/*': OF_TOKENS,
  'body /tenant': TENANT,
  'body /tenants/*': TENANT,
  'body /claims/**': OF_TOKENS,
  'body /scopes/*': FIXED,
  'body /requireAtJwt': FIXED,
  'body /status': FIXED,
} as const;

const audit = {
  'query action': FIXED,
  'query since': TIME,
  'query until': TIME,
  'query limit': NUMBER,
} as const;

export const administration: Table = {
  'GET /v1/tenants': {
    request: () => ({}),
    parameters: {
      'query status': FIXED,
      'query limit': NUMBER,
      'query cursor': cursor(admin, () => '/v1/tenants'),
    },
  },
  'POST /v1/tenants': {
    request: () => ({ body: { id: `made-${randomUUID()}` } }),
    parameters: { 'body /id': TENANT, ...settingsOfTenant },
  },
  'GET /v1/tenants/{id}': {
    request: ({ acme }) => ({ path: { id: acme.id } }),
    parameters: { 'path id': TENANT },
  },
  'PATCH /v1/tenants/{id}': {
    request: ({ acme }) => ({ path: { id: acme.id }, body: { keptDays: 7 } }),
    parameters: { 'path id': TENANT, ...settingsOfTenant, 'body /status': FIXED },
  },
  'GET /v1/tenants/{id}/audit': {
    request: ({ acme }) => ({ path: { id: acme.id } }),
    parameters: {
      'path id': TENANT,
      ...audit,
      'query cursor': cursor(admin, () => '/v1/tenants/acme/audit'),
    },
  },
  'GET /v1/issuers': {
    request: () => ({}),
    parameters: { 'query limit': NUMBER, 'query cursor': cursor(admin, () => '/v1/issuers') },
  },
  'POST /v1/issuers': {
    request: ({ acme }, parameter) => ({ body: registrationWithout(acme, parameter) }),
    parameters: registration,
  },
  'GET /v1/issuers/{id}': {
    request: ({ acme }) => ({ path: { id: acme.issuerId } }),
    parameters: { 'path id': ISSUER },
  },
  'PATCH /v1/issuers/{id}': {
    request: ({ acme }, parameter) => ({
      path: { id: acme.issuerId },
      body: parameter.startsWith('body /keys/')
        ? { keys: acme.issuer.jwks }
        : { audiences: ['tidings', 'it'] },
    }),
    parameters: { 'path id': ISSUER, ...registration, 'body /revokedBefore': TIME },
  },
  'DELETE /v1/issuers/{id}': {
    request: ({ acme }) => ({ path: { id: acme.issuerId } }),
    parameters: { 'path id': ISSUER },
  },
  'GET /v1/audit': {
    request: () => ({}),
    parameters: { ...audit, 'query cursor': cursor(operator, () => '/v1/audit') },
  },
  'GET /v1/revocations': {
    request: () => ({}),
    parameters: { 'query limit': NUMBER, 'query cursor': cursor(operator, () => '/v1/revocations') },
  },
  'POST /v1/revocations': {
    request: (_, parameter) => ({ body: parameter.startsWith('body /token') ? {} : { user: 'gone' } }),
    parameters: {
      'body /token/jti': [
        attempt({
          what: 'the `jti` of a token of another tenant',
          as: operator,
          foreign: ({ globex }) => `jti-${globex.past}`,
          answer: { status: 201 },
          writes: ['revocations', ACT],
        }),
      ],
      'body /token/expiresAt': TIME,
      'body /user': [
        attempt({
          what: 'a user that only another tenant has',
          as: operator,
          foreign: ({ globex }) => globex.only,
          answer: { status: 201 },
          writes: ['revocations', ACT],
        }),
      ],
      'body /issuedBefore': TIME,
    },
  },
  'POST /v1/users/{id}/disconnect': {
    request: () => ({ path: { id: 'nobody' } }),
    parameters: {
      'path id': [
        attempt({
          what: 'a user that only another tenant has',
          as: operator,
          foreign: ({ globex }) => globex.only,
          answer: { status: 204 },
          writes: ['stream_commands', ACT],
        }),
        attempt({
          what: 'another user, as a user',
          as: alice,
          foreign: () => 'bob',
          answer: NO_SCOPE,
        }),
      ],
    },
  },
  'POST /v1/users/disconnect': {
    request: () => ({ query: { user: 'nobody' } }),
    parameters: {
      'query user': [
        attempt({
          what: 'a user that only another tenant has',
          as: operator,
          foreign: ({ globex }) => globex.only,
          answer: { status: 204 },
          writes: ['stream_commands', ACT],
        }),
        attempt({
          what: 'another user, as a user',
          as: alice,
          foreign: () => 'bob',
          answer: NO_SCOPE,
        }),
      ],
    },
  },
  'DELETE /v1/connections/{id}': {
    request: ({ acme }) => ({ path: { id: acme.connections.bob } }),
    parameters: {
      'path id': [
        attempt({
          what: 'a stream of another tenant',
          as: operator,
          foreign: ({ globex }) => globex.connections.only,
          answer: NOT_FOUND,
        }),
        attempt({
          what: 'the stream of another user, as a user',
          as: alice,
          foreign: ({ acme }) => acme.connections.bob,
          answer: NO_SCOPE,
        }),
      ],
    },
  },
};

/** A registration that lacks what the parameter stands in place of: of some members exactly one may be sent. */
function registrationWithout({ issuer }: Tenant, parameter: string): Record<string, unknown> {
  const whole = issuer.registration({ iss: `https://${randomUUID()}.example`, tenant: 'acme' });
  const { keys: _keys, algorithms: _algorithms, ...keyless } = whole;
  const { tenant: _tenant, ...tenantless } = whole;
  if (parameter === 'body /jwksUrl' || parameter === 'body /secret') return keyless;
  return parameter === 'body /tenants/*' ? tenantless : whole;
}
