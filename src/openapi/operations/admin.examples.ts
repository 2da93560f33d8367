import { readLimits } from '../../core/limits.ts';

/* What the reference shows of tenants, issuers and the audit log; a test holds it against the schemas. */

export const tenant = {
  id: 'acme',
  name: 'Acme Ltd.',
  status: 'active',
  keptDays: 90,
  corsOrigins: ['https://app.acme.example'],
  limits: { ...readLimits({ notificationsPerSecond: 500, connectionsPerUser: 20 }) },
  createdAt: '2026-11-22T16:00:00.123Z',
  updatedAt: '2026-11-22T16:00:00.123Z',
};

export const issuer = {
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

export const revocations = {
  token: {
    id: '019aab3d-0a17-4c55-8f0e-2b8d1b6c94aa',
    kind: 'token',
    jti: 'f3b1c7',
    createdAt: '2026-11-22T16:00:31.007Z',
    expiresAt: '2026-11-22T17:00:00.000Z',
  },
  user: {
    id: '019aab3d-1c83-4f9a-9d31-77a2e0d5b6f2',
    kind: 'user',
    user: 'u-42',
    issuedBefore: '2026-11-22T16:00:35.764Z',
    createdAt: '2026-11-22T16:00:35.764Z',
    expiresAt: '2027-11-22T16:00:35.764Z',
  },
};

const act = {
  id: '019aab3d-4420-7a6b-8c19-5ef07d3a21c8',
  at: '2026-11-22T16:00:46.112Z',
  action: 'tenant.update',
  target: 'acme',
  actor: { kind: 'service', tenant: 'ops', subject: 'console', issuer: 'tidings' },
  remoteAddress: '192.0.2.17',
  requestId: 'c0ffee',
  before: tenant,
  after: { ...tenant, status: 'suspended', updatedAt: '2026-11-22T16:00:46.110Z' },
};

export const acts = {
  /** As an administrator of the installation sees it. */
  open: act,
  /** As the tenant itself sees it. */
  hidden: { ...act, actor: { kind: 'administrator' }, remoteAddress: null, requestId: null },
};
