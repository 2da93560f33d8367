import type { DeviceId, TenantId, Topic, UserId } from '../core/identifiers.ts';
import { SERVICE_SCOPES } from '../core/scopes.ts';

/** Who is calling: everything that the service believes about a caller comes from here, and this from the verified token alone. */
export interface Principal {
  readonly tenantId: TenantId;
  /** `sub`: the user of a client, the client id of a service. */
  readonly subject: UserId;
  readonly scopes: ReadonlySet<string>;
  readonly topics: readonly Topic[];
  /** Topics that a service may publish to; undefined: all, since its token has no claim of topics. */
  readonly publishesTo: ReadonlySet<Topic> | undefined;
  /** The `device` claim; it wins over what the request says. */
  readonly device: DeviceId | undefined;
  /** End of the token, ms since 1970. */
  readonly expiresAt: number;
  /** `iss` of the token. */
  readonly issuer: string;
  /** `jti`, by which this one token can be revoked. */
  readonly tokenId: string | undefined;
  /** `iat`, ms since 1970. A token without it counts as older than every revocation of its user. */
  readonly issuedAt: number | undefined;
}

export const isService = (principal: Pick<Principal, 'scopes'>): boolean =>
  SERVICE_SCOPES.some((scope) => principal.scopes.has(scope));
