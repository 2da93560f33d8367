import { z } from 'zod';
import { deviceIdSchema } from '../core/identifiers.ts';
import { parsePosition } from '../core/position.ts';

/** The body of an acknowledgement. */
export const ackSchema = z
  .strictObject({
    upTo: z
      .string()
      .transform((text, context) => {
        const position = parsePosition(text);
        if (position !== undefined) return position;
        context.addIssue({ code: 'custom', message: 'is a position: the `id:` of an event of the stream' });
        return z.NEVER;
      })
      .meta({
        description:
          'The position of the last notification that the device has taken over; all before it are confirmed too.',
      }),
    device: deviceIdSchema
      .optional()
      .meta({ description: 'Default: `default`. The `device` claim of the token wins.' }),
  })
  .meta({ id: 'Acknowledgement' });
