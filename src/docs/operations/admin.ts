import { z } from 'zod';
import { auditPageSchema, auditQuerySchema } from '../../admin/audit.schema.ts';
import { issuerSchema, issuersPageSchema, issuersQuerySchema } from '../../admin/issuers.schema.ts';
import {
  newRevocationSchema,
  revocationSchema,
  revocationsPageSchema,
  revocationsQuerySchema,
} from '../../admin/revocations.schema.ts';
import {
  newTenantSchema,
  tenantPatchSchema,
  tenantSchema,
  tenantsPageSchema,
  tenantsQuerySchema,
} from '../../admin/tenants.schema.ts';
import { tenantIdSchema, userIdSchema } from '../../identifiers.ts';
import { issuerPatchSchema, issuerRegistrationSchema } from '../../issuers/registration.schema.ts';
import type { Answer, Examples, Operation } from '../operation.ts';
import { acts, issuer, revocations, tenant } from './admin.examples.ts';

const json = (status: number, description: string, schema: z.ZodType, examples: Examples): Answer => ({
  status,
  description,
  ...(status === 201 && schema !== revocationSchema ? { headers: ['Location'] } : {}),
  content: [{ mediaType: 'application/json', schema, examples }],
});

const page = (schema: z.ZodType, ...items: readonly unknown[]): Answer =>
  json(200, 'One page.', schema, { page: { summary: 'A page', value: { items, nextCursor: null } } });

const DONE: Answer = {
  status: 204,
  description: 'It is stored and counts on this node; on the others within a second.',
};

const COMMON = {
  tag: 'Administration',
  problems: ['database_unavailable', 'keys_unavailable'],
} as const satisfies Partial<Operation>;
const WITH_ID = { ...COMMON, problems: [...COMMON.problems, 'not_found'] } as const;

const ofTenant = z.object({ id: tenantIdSchema.meta({ description: 'The tenant.' }) });
const ofIssuer = z.object({ id: z.uuid().meta({ description: 'The `id` of the issuer, not its `iss`.' }) });

const EFFECT =
  'Counts on the node that answers as soon as it answers, on the others within a second, and is recorded in the audit log.';
const PATCHING =
  'A member that is absent stays as it is; null takes its value away. What changes nothing is not recorded.';

const tenantOperations: readonly Operation[] = [
  {
    ...COMMON,
    method: 'get',
    path: '/v1/tenants',
    id: 'listTenants',
    summary: 'The tenants of the installation',
    description: 'By id.',
    access: ['tenants:admin'],
    query: tenantsQuerySchema,
    answers: [page(tenantsPageSchema, tenant)],
  },
  {
    ...COMMON,
    method: 'post',
    path: '/v1/tenants',
    id: 'createTenant',
    summary: 'Registers a tenant',
    description: `With \`TENANT_PROVISIONING=auto\` the first publish or stream of a tenant makes it, too. ${EFFECT}`,
    access: ['tenants:admin'],
    body: {
      schema: newTenantSchema,
      examples: {
        small: { summary: 'Nothing but an id', value: { id: 'acme' } },
        full: {
          summary: 'Everything',
          value: { id: 'acme', name: 'Acme Ltd.', keptDays: 90, corsOrigins: ['https://app.acme.example'] },
        },
      },
    },
    answers: [json(201, 'The tenant.', tenantSchema, { tenant: { summary: 'Registered', value: tenant } })],
    problems: [...COMMON.problems, 'tenant_exists'],
  },
  {
    ...WITH_ID,
    method: 'get',
    path: '/v1/tenants/{id}',
    id: 'getTenant',
    summary: 'One tenant',
    description: 'As it is now.',
    access: ['tenants:admin'],
    pathParameters: ofTenant,
    answers: [json(200, 'The tenant.', tenantSchema, { tenant: { summary: 'Active', value: tenant } })],
  },
  {
    ...WITH_ID,
    method: 'patch',
    path: '/v1/tenants/{id}',
    id: 'changeTenant',
    summary: 'Changes, suspends or resumes a tenant',
    description: `${PATCHING} A suspended tenant's streams end with \`bye\` \`revoked\`, its requests are refused, and nothing is
lost. ${EFFECT}`,
    access: ['tenants:admin'],
    pathParameters: ofTenant,
    body: {
      schema: tenantPatchSchema,
      examples: {
        suspend: { summary: 'Suspend it', value: { status: 'suspended' } },
        retention: { summary: 'Back to the usual retention', value: { keptDays: null } },
      },
    },
    answers: [
      json(200, 'The tenant.', tenantSchema, { tenant: { summary: 'Suspended', value: acts.open.after } }),
    ],
  },
  {
    ...WITH_ID,
    method: 'get',
    path: '/v1/tenants/{id}/audit',
    id: 'listTenantAudit',
    summary: 'Administrative acts that concern a tenant',
    description: 'Newest first, with everybody who acted.',
    access: ['tenants:admin'],
    pathParameters: ofTenant,
    query: auditQuerySchema,
    answers: [page(auditPageSchema, acts.open)],
  },
];

const issuerOperations: readonly Operation[] = [
  {
    ...COMMON,
    method: 'get',
    path: '/v1/issuers',
    id: 'listIssuers',
    summary: 'Who may sign tokens',
    description: 'The registered issuers, oldest first; that of the settings is not among them.',
    access: ['tenants:admin'],
    query: issuersQuerySchema,
    answers: [page(issuersPageSchema, issuer)],
  },
  {
    ...COMMON,
    method: 'post',
    path: '/v1/issuers',
    id: 'registerIssuer',
    summary: 'Registers an issuer',
    description: `Exactly one of \`jwksUrl\`, \`keys\` and \`secret\`, and exactly one of \`tenant\` and \`tenants\`. A token of this issuer
never speaks for another tenant, whatever it claims. ${EFFECT}`,
    access: ['tenants:admin'],
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
    answers: [json(201, 'The issuer.', issuerSchema, { issuer: { summary: 'Registered', value: issuer } })],
    problems: [...COMMON.problems, 'issuer_exists'],
  },
  {
    ...WITH_ID,
    method: 'get',
    path: '/v1/issuers/{id}',
    id: 'getIssuer',
    summary: 'One issuer',
    description: 'Its keys are public and shown, a secret is not.',
    access: ['tenants:admin'],
    pathParameters: ofIssuer,
    answers: [json(200, 'The issuer.', issuerSchema, { issuer: { summary: 'Active', value: issuer } })],
  },
  {
    ...WITH_ID,
    method: 'patch',
    path: '/v1/issuers/{id}',
    id: 'changeIssuer',
    summary: 'Changes, disables or enables an issuer, or revokes its older tokens',
    description: `${PATCHING} Streams whose tokens are good no more end with \`bye\` \`revoked\`. ${EFFECT}`,
    access: ['tenants:admin'],
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
  },
  {
    ...WITH_ID,
    method: 'delete',
    path: '/v1/issuers/{id}',
    id: 'removeIssuer',
    summary: 'Removes an issuer',
    description: `Its tokens are refused, and its streams end with \`bye\` \`revoked\`. ${EFFECT}`,
    access: ['tenants:admin'],
    pathParameters: ofIssuer,
    answers: [DONE],
  },
];

const tenantsOwnOperations: readonly Operation[] = [
  {
    ...COMMON,
    method: 'get',
    path: '/v1/audit',
    id: 'listAudit',
    summary: 'Administrative acts that concern the tenant',
    description:
      'Newest first. Whoever belongs to another tenant is shown as `administrator`, without address and request id.',
    access: ['history:read'],
    query: auditQuerySchema,
    answers: [page(auditPageSchema, acts.hidden)],
  },
  {
    ...COMMON,
    method: 'get',
    path: '/v1/revocations',
    id: 'listRevocations',
    summary: 'Revocations in force',
    description:
      'Newest first. One that is not listed has ended together with the last token that it concerned.',
    access: ['history:read', 'operations:write'],
    query: revocationsQuerySchema,
    answers: [page(revocationsPageSchema, revocations.user, revocations.token)],
  },
  {
    ...COMMON,
    method: 'post',
    path: '/v1/revocations',
    id: 'revoke',
    summary: 'Revokes one token, or all that a user has',
    description: `Open streams with such a token end with \`bye\` \`revoked\`. ${EFFECT}`,
    access: ['operations:write'],
    body: {
      schema: newRevocationSchema,
      examples: {
        user: { summary: 'Everything that a user has by now', value: { user: 'u-42' } },
        token: {
          summary: 'One token',
          value: { token: { jti: 'f3b1c7', expiresAt: '2026-11-22T17:00:00.000Z' } },
        },
      },
    },
    answers: [
      json(201, 'The revocation.', revocationSchema, {
        user: { summary: 'Of a user', value: revocations.user },
        token: { summary: 'Of a token', value: revocations.token },
      }),
    ],
  },
  {
    ...COMMON,
    method: 'post',
    path: '/v1/users/{id}/disconnect',
    id: 'disconnectUser',
    summary: 'Ends the streams of a user',
    description: `Those that are open now; also fine if there is none. The tokens stay good: revoke them to keep the user out. ${EFFECT}`,
    access: ['operations:write'],
    pathParameters: z.object({ id: userIdSchema }),
    answers: [DONE],
    problems: [...COMMON.problems, 'not_found'],
  },
  {
    ...WITH_ID,
    method: 'delete',
    path: '/v1/connections/{id}',
    id: 'closeConnection',
    summary: 'Ends one stream',
    description: `The token stays good. ${EFFECT}`,
    access: ['operations:write'],
    pathParameters: z.object({ id: z.uuid().meta({ description: '`connectionId` of the stream.' }) }),
    answers: [DONE],
  },
];

export const adminOperations: readonly Operation[] = [
  ...tenantOperations,
  ...issuerOperations,
  ...tenantsOwnOperations,
];
