import { z } from 'zod';
import { deviceIdSchema } from '../core/identifiers.ts';
import { parsePosition } from '../core/position.ts';
import { DATABASE_PROBLEMS, type Description } from '../http/description.ts';

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

export const acknowledgeDescription: Description = {
  id: 'acknowledge',
  tag: 'Stream',
  summary: 'Confirm what a device has received',
  description: `Moves the cursor of the device to \`upTo\` and confirms everything that was addressed to it until
there. Cumulative, never backwards, harmless when repeated. Committed before it is answered.`,
  body: {
    schema: ackSchema,
    examples: {
      default: { summary: 'The default device', value: { upTo: '890123456789504' } },
      phone: { summary: 'A device with a name', value: { upTo: '890123456789504', device: 'phone' } },
    },
  },
  answers: [{ status: 204, description: 'Confirmed.' }],
  problems: [
    'position_unknown',
    'device_unknown',
    'too_many_requests',
    'overloaded',
    ...DATABASE_PROBLEMS,
    'keys_unavailable',
  ],
};
