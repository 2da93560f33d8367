import { Catch, Inject, type ArgumentsHost, type ExceptionFilter } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { CONFIG, type Config } from '../core/config.ts';
import { sendProblem, toProblem } from '../http/problem.filter.ts';
import { byeFrame, jittered } from './frames.ts';
import { openEventStream } from './socket.ts';

/**
 * Errors on the way to a stream. Trouble that passes by itself (503: the key server does not answer) is said in the
 * stream, since after any status but 200 an EventSource gives up for ever.
 */
@Catch()
export class PassingTroubleFilter implements ExceptionFilter {
  constructor(@Inject(CONFIG) private readonly config: Config) {}

  catch(error: unknown, host: ArgumentsHost): void {
    const http = host.switchToHttp();
    const reply = http.getResponse<FastifyReply>();
    const { id, method } = http.getRequest<FastifyRequest>();
    const problem = toProblem(error, id);
    // An answer to HEAD has no body, so it is no stream either (RFC 9110 § 9.3.2).
    if (problem.status !== 503 || method === 'HEAD') {
      sendProblem(reply, problem);
      return;
    }
    const stream = openEventStream(reply, jittered(this.config.STREAM_RETRY_MS));
    stream?.end(byeFrame('unavailable', jittered(this.config.STREAM_RETRY_MS)));
  }
}
