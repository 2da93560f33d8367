import { z } from 'zod';
import { issuerSchema, issuersPageSchema, issuersQuerySchema } from '../../admin/issuers.controller.ts';
import { issuerPatchSchema, issuerRegistrationSchema } from '../../auth/registration.schema.ts';
import type { Operation } from '../operation.ts';
import { issuer } from './admin.examples.ts';
import { COMMON, DONE, EFFECT, json, page, PATCHING, WITH_ID } from './admin.parts.ts';

const ofIssuer = z.object({ id: z.uuid().meta({ description: 'The `id` of the issuer, not its `iss`.' }) });

export const issuerOperations: readonly Operation[] = [
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
    summary: 'Register an issuer',
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
    answers: [
      {
        ...json(201, 'The issuer.', issuerSchema, { issuer: { summary: 'Registered', value: issuer } }),
        headers: ['Location'],
      },
    ],
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
    summary: 'Change, disable or enable an issuer, or revoke its older tokens',
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
    summary: 'Remove an issuer',
    description: `Its tokens are refused, and its streams end with \`bye\` \`revoked\`. ${EFFECT}`,
    access: ['tenants:admin'],
    pathParameters: ofIssuer,
    answers: [DONE],
  },
];
