import { z } from 'zod';

/** The body of `POST /v1/session`, if there is one: everything is in the token. */
export const sessionSchema = z.strictObject({}).meta({ id: 'SessionRequest' });
