import { Readable } from 'node:stream';

/**
 * An answer as lines of JSON (application/x-ndjson), made page by page. A page is asked for when the socket has room, and is
 * read by statements of its own, so that neither a slow reader nor a long selection keeps a snapshot of the database open.
 * When the reader goes away, no further page is asked for. When a page fails, the response is destroyed before its end,
 * which every client notices; a list that simply ended early would look complete.
 *
 * @param pages each the text of some whole lines, or empty
 */
export function streamLines(pages: AsyncIterable<string>): Readable {
  return Readable.from(pages, { objectMode: false, highWaterMark: 1 });
}

/** The same, but the first page is read before the status is sent, so that its failure can still be answered as a problem. */
export async function beginLines(pages: AsyncGenerator<string>): Promise<Readable> {
  return streamLines(resume(await pages.next(), pages));
}

/** The whole iteration, of which the first step was taken already. */
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
