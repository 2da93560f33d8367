import { z } from 'zod';
import { ALGORITHMS } from '../auth/issuer.ts';
import { keptKeySetSchema } from '../auth/keys.ts';
import { issuerPatchSchema, issuerRegistrationSchema } from '../auth/registration.ts';
import { SERVICE_SCOPES, tenantIdSchema } from '../core/identifiers.ts';
import { json, type Description } from '../http/description.ts';
import { pageParameters, pageSchema } from '../http/pages.ts';
import { COMMON, DONE, EFFECT, page, PATCHING, WITH_ID, time } from './route-parts.ts';

export const issuersQuerySchema = z.strictObject(pageParameters);

const issuerSchema = z
  .strictObject({
    id: z.uuid(),
    iss: z.string(),
    name: z.string().nullable(),
    status: z.enum(['active', 'disabled']),
    jwksUrl: z.string().nullable(),
    keys: keptKeySetSchema.nullable().meta({ description: 'Public keys, if they were registered by value.' }),
    hasSecret: z
      .boolean()
      .meta({ description: 'Whether its tokens are signed with a secret, which is never shown.' }),
    algorithms: z.array(z.enum(ALGORITHMS)),
    audiences: z.array(z.string()),
    tenant: tenantIdSchema.nullable().meta({ description: 'The one tenant of all its tokens.' }),
    tenants: z
      .array(tenantIdSchema)
      .nullable()
      .meta({ description: 'The tenants that its tokens may name.' }),
    claims: z.strictObject({
      tenant: z.string(),
      user: z.string(),
      topics: z.string(),
      device: z.string(),
      scopes: z.array(z.string()),
    }),
    scopes: z.array(z.enum(SERVICE_SCOPES)),
    requireAtJwt: z.boolean(),
    revokedBefore: time
      .nullable()
      .meta({ description: 'Tokens issued before it, or without `iat`, are refused.' }),
    version: z
      .int()
      .min(1)
      .meta({ description: 'Grows with every change, also with one that is not shown.' }),
    createdAt: time,
    updatedAt: time,
  })
  .meta({ id: 'Issuer' });

const issuersPageSchema = pageSchema('IssuersPage', issuerSchema);

const issuer = {
  id: '019aab3c-91f4-7d02-b6de-0c51f8a4e7d3',
  iss: 'https://id.acme.example/realms/main',
  name: 'Acme',
  status: 'active',
  jwksUrl: 'https://id.acme.example/realms/main/protocol/openid-connect/certs',
  keys: null,
  hasSecret: false,
  algorithms: ['RS256'],
  audiences: ['tidings'],
  tenant: 'acme',
  tenants: null,
  claims: {
    tenant: 'tenant_id',
    user: 'sub',
    topics: '/resource_access/tidings/topics',
    device: 'device',
    scopes: ['scope'],
  },
  scopes: ['notifications:publish', 'history:read'],
  requireAtJwt: false,
  revokedBefore: null,
  version: 1,
  createdAt: '2026-11-22T16:00:05.501Z',
  updatedAt: '2026-11-22T16:00:05.501Z',
};

const ofIssuer = z.object({ id: z.uuid().meta({ description: 'The `id` of the issuer, not its `iss`.' }) });

export const listIssuersDescription: Description = {
  ...COMMON,
  id: 'listIssuers',
  summary: 'Who may sign tokens',
  description: 'The registered issuers, oldest first; that of the settings is not among them.',
  query: issuersQuerySchema,
  answers: [page(issuersPageSchema, issuer)],
};

export const registerIssuerDescription: Description = {
  ...COMMON,
  id: 'registerIssuer',
  summary: 'Register an issuer',
  description: `Exactly one of \`jwksUrl\`, \`keys\` and \`secret\`, and exactly one of \`tenant\` and \`tenants\`. A token of this issuer
never speaks for another tenant, whatever it claims. ${EFFECT}`,
  body: {
    schema: issuerRegistrationSchema,
    examples: {
      one: {
        summary: 'An identity provider of one tenant',
        value: {
          iss: issuer.iss,
          name: issuer.name,
          jwksUrl: issuer.jwksUrl,
          audiences: issuer.audiences,
          tenant: issuer.tenant,
          claims: { topics: issuer.claims.topics },
        },
      },
      several: {
        summary: 'One that names the tenant in a nested claim',
        value: {
          iss: 'https://login.example',
          jwksUrl: 'https://login.example/keys',
          algorithms: ['ES256', 'EdDSA'],
          audiences: ['tidings'],
          tenants: ['acme', 'globex'],
          claims: { tenant: '/org/id', scopes: ['/realm_access/roles', 'scope'] },
          scopes: ['notifications:publish', 'history:read', 'operations:write'],
          requireAtJwt: true,
        },
      },
    },
  },
  answers: [
    {
      ...json(201, 'The issuer.', issuerSchema, { issuer: { summary: 'Registered', value: issuer } }),
      headers: ['Location'],
    },
  ],
  problems: [...COMMON.problems, 'issuer_exists'],
};

export const getIssuerDescription: Description = {
  ...WITH_ID,
  id: 'getIssuer',
  summary: 'One issuer',
  description: 'Its keys are public and shown, a secret is not.',
  pathParameters: ofIssuer,
  answers: [json(200, 'The issuer.', issuerSchema, { issuer: { summary: 'Active', value: issuer } })],
};

export const changeIssuerDescription: Description = {
  ...WITH_ID,
  id: 'changeIssuer',
  summary: 'Change, disable or enable an issuer, or revoke its older tokens',
  description: `${PATCHING} Streams whose tokens are good no more end with \`bye\` \`revoked\`. ${EFFECT}`,
  pathParameters: ofIssuer,
  body: {
    schema: issuerPatchSchema,
    examples: {
      disable: { summary: 'Take no token of it', value: { status: 'disabled' } },
      revoke: {
        summary: 'Take no token that was issued before',
        value: { revokedBefore: '2026-11-22T16:00:00.000Z' },
      },
    },
  },
  answers: [
    json(200, 'The issuer.', issuerSchema, {
      issuer: { summary: 'Disabled', value: { ...issuer, status: 'disabled', version: 2 } },
    }),
  ],
  problems: [...WITH_ID.problems, 'issuer_exists'],
};

export const removeIssuerDescription: Description = {
  ...WITH_ID,
  id: 'removeIssuer',
  summary: 'Remove an issuer',
  description: `Its tokens are refused, and its streams end with \`bye\` \`revoked\`. ${EFFECT}`,
  pathParameters: ofIssuer,
  answers: [DONE],
};
