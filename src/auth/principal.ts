import type { DeviceId, TenantId, Topic, UserId } from '../identifiers.ts';

/** Scopes that only services and operators hold. A token with one of them is a service token and cannot open a stream (RFC 8725 §3.12). */
export const SERVICE_SCOPES = [
  'notifications:publish',
  'history:read',
  'operations:write',
  'tenants:admin',
] as const;
export type ServiceScope = (typeof SERVICE_SCOPES)[number];

/** Who is calling: everything that the service believes about a caller comes from here, and this from the verified token alone. */
export interface Principal {
  readonly tenantId: TenantId;
  /** `sub`: the user of a client, the client id of a service. */
  readonly subject: UserId;
  readonly scopes: ReadonlySet<string>;
  readonly topics: readonly Topic[];
  /** The `device` claim; it wins over what the request says. */
  readonly device: DeviceId | undefined;
  /** End of the token, ms since 1970. */
  readonly expiresAt: number;
}

export const isService = (principal: Principal): boolean =>
  SERVICE_SCOPES.some((scope) => principal.scopes.has(scope));
