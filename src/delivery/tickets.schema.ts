import { z } from 'zod';
import { deviceIdSchema } from '../core/identifiers.ts';

/** The body of a request for a ticket; it may be left out. */
export const ticketRequestSchema = z
  .strictObject({
    device: deviceIdSchema.optional().meta({
      description:
        'The device whose stream the ticket opens. Default: `default`. The `device` claim of the token wins.',
    }),
  })
  .meta({ id: 'TicketRequest' });

export const ticketSchema = z
  .object({
    ticket: z.string().meta({ description: 'For the query of one `GET /v1/stream`. Opaque.' }),
    expiresAt: z.iso.datetime({ precision: 3 }).meta({ description: 'From then on it opens nothing.' }),
  })
  .meta({ id: 'Ticket' });
