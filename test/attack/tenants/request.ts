import { StreamClient } from '../../support/stream-client.ts';
import type { OperationKey, ParameterKey } from '../document.ts';

/** What a request carries beside its method, its path and its token. */
export interface Carried {
  /** In place of the `{parameters}` of the path. */
  readonly path?: Readonly<Record<string, string>>;
  readonly query?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  /** Goes out as JSON. */
  readonly body?: unknown;
}

/** The same request with `value` in the place that the key names. */
export function withParameter(request: Carried, key: ParameterKey, value: unknown): Carried {
  const place = key.slice(0, key.indexOf(' '));
  const name = key.slice(place.length + 1);
  if (place === 'body') return { ...request, body: planted(request.body, name.split('/').slice(1), value) };
  const group = place === 'path' ? 'path' : place === 'query' ? 'query' : 'headers';
  return { ...request, [group]: { ...request[group], [name]: String(value) } };
}

function planted(into: unknown, [part, ...rest]: readonly string[], value: unknown): unknown {
  if (part === undefined) return value;
  if (part === '*') {
    const [first, ...others]: readonly unknown[] = Array.isArray(into) ? into : [];
    return [planted(first, rest, value), ...others];
  }
  const members: object = typeof into === 'object' && into !== null ? into : {};
  return { ...members, [part]: planted(Reflect.get(members, part), rest, value) };
}

export interface Answered {
  readonly status: number;
  /** All but the time and the id of the request. */
  readonly headers: Readonly<Record<string, string>>;
  /** JSON if it is JSON; of a stream its events until it has caught up, or its end. */
  readonly body: unknown;
}

/** What stands for the body of a stream. */
interface StreamBody {
  /** From the `sync` event. */
  readonly resume: unknown;
  readonly connectionId: unknown;
  readonly events: readonly { readonly event: string | undefined; readonly data: unknown }[];
}

export const isStream = (body: unknown): body is StreamBody =>
  typeof body === 'object' && body !== null && 'events' in body;

/** What every answer has another of. */
const ITS_OWN = new Set(['date', 'x-request-id']);

/** Asks one operation, and waits for the whole answer. A stream is closed as soon as it has caught up. */
export async function ask(
  url: string,
  operation: OperationKey,
  token: string | undefined,
  { path = {}, query = {}, headers = {}, body }: Carried,
): Promise<Answered> {
  const [method = '', template = ''] = operation.split(' ');
  if (operation === 'GET /v1/stream') return await askStream(url, token, query, headers);
  const target = template.replaceAll(/\{(\w+)\}/g, (_, name: string) =>
    encodeURIComponent((path[name] ?? '').toWellFormed()),
  );
  const search = new URLSearchParams(query).toString();
  const response = await fetch(`${url}${target}${search === '' ? '' : `?${search}`}`, {
    method,
    headers: {
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(60_000),
  });
  const text = await response.text();
  const json = /[/+]json/.test(response.headers.get('content-type') ?? '');
  return {
    status: response.status,
    headers: Object.fromEntries([...response.headers].filter(([name]) => !ITS_OWN.has(name))),
    body: json ? (JSON.parse(text) as unknown) : text,
  };
}

async function askStream(
  url: string,
  token: string | undefined,
  query: Readonly<Record<string, string>>,
  headers: Readonly<Record<string, string>>,
): Promise<Answered> {
  const stream = await StreamClient.open(url, token, { query: { ...query }, headers: { ...headers } });
  const { statusCode: status = 0, headers: received } = stream.response;
  const answer = (body: unknown): Answered => ({
    status,
    headers: Object.fromEntries(
      Object.entries(received).flatMap(([name, value]) =>
        ITS_OWN.has(name) || value === undefined ? [] : [[name, String(value)]],
      ),
    ),
    body,
  });
  if (status !== 200) {
    await stream.closed;
    return answer(JSON.parse(stream.raw));
  }
  await stream.until(() => stream.ended || stream.named('caught-up').length > 0, 'the end of the backlog');
  await stream.cut();
  const { resume, connectionId } = stream.named('sync').at(0) ?? {};
  return answer({
    resume,
    connectionId,
    events: stream.events.map(({ event, data }) => ({ event, data: JSON.parse(data) as unknown })),
  } satisfies StreamBody);
}
