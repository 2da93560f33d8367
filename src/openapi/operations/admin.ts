import { z } from 'zod';
import { auditPageSchema, auditQuerySchema } from '../../admin/audit.controller.ts';
import {
  newRevocationSchema,
  revocationSchema,
  revocationsPageSchema,
  revocationsQuerySchema,
} from '../../admin/revocations.controller.ts';
import {
  newTenantSchema,
  tenantPatchSchema,
  tenantSchema,
  tenantsPageSchema,
  tenantsQuerySchema,
} from '../../admin/tenants.controller.ts';
import { tenantIdSchema, userIdSchema } from '../../core/identifiers.ts';
import type { Operation } from '../operation.ts';
import { acts, revocations, tenant } from './admin.examples.ts';
import { issuerOperations } from './admin.issuers.ts';
import { byQuery, COMMON, DONE, EFFECT, json, page, PATCHING, WITH_ID } from './admin.parts.ts';

const ofTenant = z.object({ id: tenantIdSchema.meta({ description: 'The tenant.' }) });

const tenantOperations: readonly Operation[] = [
  {
    ...COMMON,
    method: 'get',
    path: '/v1/tenants',
    id: 'listTenants',
    summary: 'The tenants of the installation',
    description: 'By id. Those that were deleted only with `status=deleted`.',
    access: ['tenants:admin'],
    query: tenantsQuerySchema,
    answers: [page(tenantsPageSchema, tenant)],
  },
  {
    ...COMMON,
    method: 'post',
    path: '/v1/tenants',
    id: 'createTenant',
    summary: 'Register a tenant',
    description: `With \`TENANT_PROVISIONING=auto\` the first publish or stream of a tenant makes it, too; but one that was
deleted is made anew here and nowhere else. ${EFFECT}`,
    access: ['tenants:admin'],
    body: {
      schema: newTenantSchema,
      examples: {
        small: { summary: 'Nothing but an id', value: { id: 'acme' } },
        full: {
          summary: 'Everything',
          value: {
            id: 'acme',
            name: 'Acme Ltd.',
            keptDays: 90,
            corsOrigins: ['https://app.acme.example'],
            limits: { notificationsPerSecond: 500, connectionsPerUser: 20 },
          },
        },
      },
    },
    answers: [
      {
        ...json(201, 'The tenant.', tenantSchema, { tenant: { summary: 'Registered', value: tenant } }),
        headers: ['Location'],
      },
    ],
    problems: [...COMMON.problems, 'tenant_exists', 'tenant_deleted'],
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
    summary: 'Change, suspend or resume a tenant',
    description: `${PATCHING} A suspended tenant's streams end with \`bye\` \`revoked\`, its requests are refused, and nothing is
lost. \`limits\` is merged member by member, too; \`null\` gives a limit back to the settings of the service. ${EFFECT}`,
    access: ['tenants:admin'],
    pathParameters: ofTenant,
    body: {
      schema: tenantPatchSchema,
      examples: {
        suspend: { summary: 'Suspend it', value: { status: 'suspended' } },
        retention: { summary: 'Back to the usual retention', value: { keptDays: null } },
        limits: {
          summary: 'More of one, the usual of another',
          value: { limits: { notificationsPerSecond: 500, burst: null } },
        },
      },
    },
    answers: [
      json(200, 'The tenant.', tenantSchema, { tenant: { summary: 'Suspended', value: acts.open.after } }),
    ],
    problems: [...WITH_ID.problems, 'tenant_deleted'],
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

const disconnectUser: Operation = {
  ...COMMON,
  method: 'post',
  path: '/v1/users/{id}/disconnect',
  id: 'disconnectUser',
  summary: 'End the streams of a user',
  description: `Those that are open now; also fine if there is none. The tokens stay good: revoke them to keep the user out. ${EFFECT}`,
  access: ['operations:write'],
  pathParameters: z.object({ id: userIdSchema }),
  answers: [DONE],
  problems: [...COMMON.problems, 'not_found', 'too_many_requests'],
};

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
    summary: 'Revoke one token, or all that a user has',
    description: `Open streams with such a token end with \`bye\` \`revoked\`. ${EFFECT} It takes the place of what was revoked
before of the same token or user: \`expiresAt\` and \`issuedBefore\` are the latest of them.`,
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
    problems: [...COMMON.problems, 'revocations_full', 'too_many_requests'],
  },
  disconnectUser,
  byQuery(disconnectUser),
  {
    ...WITH_ID,
    method: 'delete',
    path: '/v1/connections/{id}',
    id: 'closeConnection',
    summary: 'End one stream',
    description: `The token stays good. ${EFFECT}`,
    access: ['operations:write'],
    pathParameters: z.object({ id: z.uuid().meta({ description: '`connectionId` of the stream.' }) }),
    answers: [DONE],
    problems: [...WITH_ID.problems, 'too_many_requests'],
  },
];

export const adminOperations: readonly Operation[] = [
  ...tenantOperations,
  ...issuerOperations,
  ...tenantsOwnOperations,
];
