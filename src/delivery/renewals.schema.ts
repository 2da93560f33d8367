import { z } from 'zod';

/** The body of POST /v1/stream/renewals. */
export const renewalSchema = z
  .strictObject({
    connectionId: z.uuid().meta({ description: 'From the `sync` event of the stream.' }),
    token: z
      .string()
      .regex(/^[A-Za-z0-9\-._~+/]{1,8192}=*$/, 'is not a token')
      .meta({ description: 'A new token of the same user and tenant.' }),
  })
  .meta({ id: 'Renewal' });

/** The answer: until when the stream may stay open. */
export const renewedSchema = z.object({ tokenExpiresAt: z.iso.datetime() }).meta({ id: 'Renewed' });
