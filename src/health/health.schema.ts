import { z } from 'zod';

export const liveSchema = z
  .strictObject({ status: z.literal('live') })
  .meta({ id: 'Liveness', description: 'The process answers.' });

export const readySchema = z
  .strictObject({
    status: z.enum(['ready', 'draining', 'not-migrated']),
    node: z.string().meta({ description: 'The name of the node that answered.' }),
    version: z.string().meta({ description: 'The version of Tidings that it runs.' }),
    database: z
      .strictObject({
        reachable: z.boolean(),
        milliseconds: z
          .number()
          .nonnegative()
          .meta({ description: 'How long the database took to answer, or to fail.' }),
        error: z
          .string()
          .optional()
          .meta({ description: 'The SQLSTATE or system code of the failure, if it has one.' }),
        writeFailure: z
          .strictObject({
            error: z.string().meta({ description: 'The SQLSTATE of the last one; 53100: the disk is full.' }),
            since: z.iso.datetime().meta({ description: 'When the first one failed.' }),
          })
          .optional()
          .meta({
            description:
              'Set while the database answers and publishes fail because of it; absent again with the first that is stored.',
          }),
      })
      .meta({ description: 'At most a second old.' }),
  })
  .meta({ id: 'Readiness', description: 'Whether this node takes work, and what it depends on.' });

export type Ready = z.infer<typeof readySchema>;
