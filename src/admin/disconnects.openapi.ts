import { z } from 'zod';
import { userIdSchema } from '../core/identifiers.ts';
import type { Description } from '../http/description.ts';
import { COMMON, DONE, EFFECT, WITH_ID } from './descriptions.ts';
import { userQuerySchema } from './request-parameters.ts';

export const disconnectUserDescription: Description = {
  ...COMMON,
  id: 'disconnectUser',
  summary: 'End the streams of a user',
  description: `Those that are open now; also fine if there is none. The tokens stay good: revoke them to keep the user out. ${EFFECT}`,
  pathParameters: z.object({ id: userIdSchema }),
  byQuery: userQuerySchema,
  answers: [DONE],
  problems: [...COMMON.problems, 'not_found', 'too_many_requests'],
};

export const closeConnectionDescription: Description = {
  ...WITH_ID,
  id: 'closeConnection',
  summary: 'End one stream',
  description: `The token stays good. ${EFFECT}`,
  pathParameters: z.object({ id: z.uuid().meta({ description: '`connectionId` of the stream.' }) }),
  answers: [DONE],
  problems: [...WITH_ID.problems, 'too_many_requests'],
};
