import type { Config } from '../config.ts';
import { DEFAULT_CLAIMS, type Issuer } from './issuer.ts';

/** What the tokens of the issuer that the settings name may say: anything, of any tenant. */
export const environmentRules = ({ JWT_ISSUER, JWT_AUDIENCE, JWT_SCOPES }: Config) =>
  ({
    iss: JWT_ISSUER,
    audiences: [JWT_AUDIENCE],
    tenants: { kind: 'any' },
    claims: DEFAULT_CLAIMS,
    scopes: new Set(JWT_SCOPES),
  }) as const satisfies Partial<Issuer>;
