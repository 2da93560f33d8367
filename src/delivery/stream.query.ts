import { z } from 'zod';
import { deviceIdSchema } from '../core/identifiers.ts';

/**
 * The query of GET /v1/stream. Nothing in it says whose stream it is: that is in the token. What is not known is left out, and
 * not refused as on all other routes: a client that adds a number against caches would give up for ever.
 */
export const streamQuerySchema = z
  .object({
    device: deviceIdSchema.optional().meta({
      description:
        "Which of the user's devices this is; `default` if absent. A `device` claim in the token wins.",
    }),
    ticket: z.string().optional().meta({
      description:
        'From `POST /v1/stream/tickets`, in place of a token. It opens one stream; its device is that of the ticket.',
    }),
    from: z
      .enum(['undelivered', 'latest', 'earliest'])
      .default('undelivered')
      .meta({ description: 'Where to start without a position.' }),
    ack: z
      .enum(['explicit', 'auto'])
      .default('explicit')
      .meta({ description: '`auto`: the cursor follows what was written, and nothing becomes `delivered`.' }),
    // Any text: a bad position is never a 4xx, which would make an EventSource give up for ever. A client that
    // adds it to a URL that has one means the last.
    lastEventId: z
      .preprocess((sent: unknown) => (Array.isArray(sent) ? sent.at(-1) : sent), z.string().optional())
      .meta({
        description:
          'The last id that was seen, for a reloaded page, which cannot set `Last-Event-ID`. The header wins; of several the last one counts.',
      }),
  })
  .meta({ id: 'StreamQuery' });
