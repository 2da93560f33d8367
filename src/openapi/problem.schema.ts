import { z } from 'zod';
import { ERRORS } from '../core/errors.ts';

/** What `Problem.toJSON` (errors.ts) makes of an error. */
export const problemSchema = z
  .strictObject({
    type: z.string().meta({ description: 'A path of this documentation; it names the error.' }),
    title: z.string().meta({ description: 'What the error means, the same text each time.' }),
    status: z.number().int().min(400).max(599),
    detail: z.string().meta({ description: 'What was wrong this time.' }),
    code: z.enum(Object.keys(ERRORS)).meta({ description: 'The stable name that programs may rely on.' }),
    errors: z
      .array(
        z.strictObject({
          pointer: z.string().meta({
            description:
              'A JSON pointer (RFC 6901) into the body. For a query parameter or a header it is `/` and its name.',
          }),
          detail: z.string(),
        }),
      )
      .optional()
      .meta({ description: 'Everything that is wrong with the request, each with its place.' }),
  })
  .meta({ id: 'Problem', description: 'An error as RFC 9457 has it.' });
