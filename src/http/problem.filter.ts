import { Catch, HttpException, Logger, type ArgumentsHost, type ExceptionFilter } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { databaseUnavailable, errorCode, isUnavailable } from '../postgres/errors.ts';
import { Problem, type ErrorCode } from '../core/errors.ts';

/** Errors of Fastify and Nest that have a meaning for the caller, by Fastify's code or by HTTP status. */
const FOREIGN: Record<string, [ErrorCode, string]> = {
  FST_ERR_CTP_INVALID_MEDIA_TYPE: ['unsupported_media_type', 'The body must be application/json.'],
  FST_ERR_CTP_EMPTY_TYPE: ['unsupported_media_type', 'Content-Type is missing; send application/json.'],
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: ['malformed_json', 'The body is not as long as Content-Length says.'],
  // Of the methods that nothing here takes, this alone is asked for its body first.
  FST_ERR_ROUTE_MISSING_CONTENT_TYPE: ['not_found', 'No route has this path.'],
  FST_ERR_BAD_URL: ['not_found', 'The path is not a valid URL path.'],
  FST_ERR_MAX_PARAM_LENGTH: ['not_found', 'A part of the path is longer than any id.'],
  404: ['not_found', 'No route has this path.'],
};

const ROUTED = ['GET', 'HEAD', 'POST', 'PATCH', 'DELETE'] as const;
/** For `Allow`, where there is no path to ask. */
export const METHODS = ROUTED.join(', ');

export const PROBLEM_TYPE = 'application/problem+json; charset=utf-8';

/** Renders every error as RFC 9457. What is not a Problem is a fault of the service: logged with its cause, answered without it. */
@Catch()
export class ProblemFilter implements ExceptionFilter {
  catch(error: unknown, host: ArgumentsHost): void {
    const http = host.switchToHttp();
    const request = http.getRequest<FastifyRequest>();
    const problem = otherMethod(error, request) ?? toProblem(error, request.id);
    sendProblem(http.getResponse(), problem);
  }
}

export function sendProblem(reply: FastifyReply, problem: Problem): void {
  void reply.status(problem.status).headers(problem.headers).type(PROBLEM_TYPE).send(JSON.stringify(problem));
}

const logger = new Logger('ProblemFilter');

/** `requestId`: what the log line of an unexpected error is found by. */
export function toProblem(error: unknown, requestId: string): Problem {
  if (error instanceof Problem) return error;
  if (isUnavailable(error)) return databaseUnavailable(error);
  const known = FOREIGN[errorCode(fastifyError(error)) ?? ''] ?? FOREIGN[statusOf(error)];
  if (known !== undefined) return new Problem(known[0], known[1], { cause: error });
  logger.error({ msg: 'a request failed unexpectedly', requestId, err: error });
  return new Problem('internal', 'The service could not answer. Nothing in your request explains it.', {
    cause: error,
  });
}

/** A path without parameters that other methods have a route for. */
function otherMethod(error: unknown, { routeOptions, server, url }: FastifyRequest): Problem | undefined {
  if (!isNoRoute(error) || routeOptions.url !== undefined) return undefined;
  const path = url.split('?', 1)[0] ?? '';
  const allowed = ROUTED.filter((method) => server.hasRoute({ method, url: path }));
  if (allowed.length === 0) return undefined;
  return new Problem('method_not_allowed', 'The path does not take this method.', {
    headers: { allow: allowed.join(', ') },
  });
}

const isNoRoute = (error: unknown): boolean =>
  statusOf(error) === 404 || errorCode(fastifyError(error)) === 'FST_ERR_ROUTE_MISSING_CONTENT_TYPE';

/** Nest wraps what Fastify found. */
const fastifyError = (error: unknown): unknown => (error instanceof HttpException ? error.cause : error);

const statusOf = (error: unknown): number => (error instanceof HttpException ? error.getStatus() : 500);
