import { Readable } from 'node:stream';

/**
 * Lines of JSON (application/x-ndjson), produced page by page: a page is asked for when the socket has room, each by
 * a statement of its own, so that neither a slow reader nor a long selection holds a snapshot open. When the reader
 * goes away no further page is asked for. When a page fails the response is destroyed before its end, which every
 * client sees; a list that silently ends early would look complete.
 *
 * @param pages each the text of some whole lines, or empty
 */
export function streamLines(pages: AsyncIterable<string>): Readable {
  return Readable.from(pages, { objectMode: false, highWaterMark: 1 });
}

/** The same with the first page taken at once: it comes before the status, so that its failure can be told as a problem. */
export async function beginLines(pages: AsyncGenerator<string>): Promise<Readable> {
  return streamLines(resume(await pages.next(), pages));
}

/** An iteration whose first step was already taken. */
async function* resume<Value>(
  first: IteratorResult<Value, unknown>,
  rest: AsyncGenerator<Value>,
): AsyncGenerator<Value> {
  if (first.done === true) return;
  try {
    yield first.value;
    yield* rest;
  } finally {
    await rest.return(undefined);
  }
}

export const LINES_TYPE = 'application/x-ndjson; charset=utf-8';

/** Whether the caller asked for lines: the type is named in `Accept` and not refused by `q=0` (RFC 9110 §12.5.1). */
export function wantsLines(accept: string | undefined): boolean {
  return (accept ?? '').split(',').some((range) => {
    const [type, ...parameters] = range.split(';').map((part) => part.trim().toLowerCase());
    return (
      type === 'application/x-ndjson' && !parameters.some((parameter) => /^q=0(?:\.0*)?$/.test(parameter))
    );
  });
}
