import { z } from 'zod';
import { ACTIONS } from '../audit/audit.store.ts';
import { tenantIdSchema } from '../core/identifiers.ts';
import { pageParameters, pageSchema, timeParameter } from '../http/pages.ts';
import type { Description } from '../http/description.ts';
import { COMMON, page, WITH_ID, time } from './route-parts.ts';
import { ofTenant, suspended, tenant } from './tenants.openapi.ts';

const actionSchema = z.enum(ACTIONS);

export const auditQuerySchema = z.strictObject({
  action: actionSchema.optional(),
  since: timeParameter('Done at or after this time.'),
  until: timeParameter('Done before this time.'),
  ...pageParameters,
});

const actorSchema = z
  .discriminatedUnion('kind', [
    z.strictObject({
      kind: z.literal('service'),
      tenant: tenantIdSchema,
      subject: z.string().meta({ description: '`sub` of its token.' }),
      issuer: z.string().nullable().meta({ description: '`iss` of its token.' }),
    }),
    z.strictObject({ kind: z.literal('command') }),
    z.strictObject({ kind: z.literal('administrator') }),
  ])
  .meta({
    id: 'Actor',
    description:
      'Who did it. `command`: somebody at the installation itself. `administrator`: somebody of another tenant, who is not shown.',
  });

const content = (description: string) => z.json().meta({ description });

const auditItemSchema = z
  .strictObject({
    id: z.uuid(),
    at: time,
    action: actionSchema,
    target: z.string().meta({
      description:
        'The id of the tenant, issuer, revocation, user or connection. A user who is erased is not named: `sha256:` and the SHA-256 of the id of the erasure, a colon and the id of the user.',
    }),
    actor: actorSchema,
    remoteAddress: z.string().nullable().meta({ description: 'Where the request came from.' }),
    requestId: z.string().nullable(),
    before: content('What the API showed of the target; null: there was none.'),
    after: content('The same after the act; null: there is none any more.'),
  })
  .meta({ id: 'AuditItem', description: 'An administrative act.' });

const auditPageSchema = pageSchema('AuditPage', auditItemSchema);

/** An act as an administrator of the installation sees it. */
const act = {
  id: '019aab3d-4420-7a6b-8c19-5ef07d3a21c8',
  at: '2026-11-22T16:00:46.112Z',
  action: 'tenant.update',
  target: 'acme',
  actor: { kind: 'service', tenant: 'ops', subject: 'console', issuer: 'tidings' },
  remoteAddress: '192.0.2.17',
  requestId: 'c0ffee',
  before: tenant,
  after: suspended,
};

/** The same act as the tenant itself sees it. */
const actOfOutsider = { ...act, actor: { kind: 'administrator' }, remoteAddress: null, requestId: null };

export const listAuditDescription: Description = {
  ...COMMON,
  id: 'listAudit',
  summary: 'Admin actions that concern the tenant',
  description:
    'Newest first. Whoever belongs to another tenant is shown as `administrator`, without address and request id.',
  query: auditQuerySchema,
  answers: [page(auditPageSchema, actOfOutsider)],
};

export const listTenantAuditDescription: Description = {
  ...WITH_ID,
  id: 'listTenantAudit',
  summary: 'Admin actions that concern a tenant',
  description: 'Newest first, with everybody who acted.',
  pathParameters: ofTenant,
  query: auditQuerySchema,
  answers: [page(auditPageSchema, act)],
};
