import { createParser } from 'eventsource-parser';
import { postOf, type Caller } from './call.ts';
import type { Bye, Gap, InboxEvent, Notification, Sync } from './wire.ts';

/** What a stream brings, by the name of its event; a notification has none on the wire. `id`: the position behind it. */
export type StreamEvent =
  | { readonly name: 'sync'; readonly data: Sync }
  | { readonly name: 'notification'; readonly data: Notification; readonly id: string }
  | {
      readonly name: 'caught-up' | 'position';
      readonly data: { readonly position: string };
      readonly id: string;
    }
  | { readonly name: 'gap'; readonly data: Gap }
  | { readonly name: 'inbox'; readonly data: InboxEvent }
  | { readonly name: 'expiring'; readonly data: { readonly at: string } }
  | { readonly name: 'bye'; readonly data: Bye };

const NAMES = ['notification', 'sync', 'caught-up', 'position', 'gap', 'inbox', 'expiring', 'bye'];

export interface StreamOptions {
  readonly caller: Caller;
  readonly device: string;
  /** Empty: where the device is. */
  readonly lastEventId: string;
  readonly signal: AbortSignal;
  readonly transport: 'fetch' | 'event-source';
  /** The stream is open, with this token. */
  readonly opened: (token: string | undefined) => void;
  /** Bytes have come, be it a heartbeat. */
  readonly heard: () => void;
  readonly take: (event: StreamEvent) => void;
}

/** Reads one stream until it ends. Throws as Caller does if it does not begin or breaks. */
export function readStream(options: StreamOptions): Promise<void> {
  return options.transport === 'fetch' ? readByFetch(options) : readByEventSource(options);
}

const addressOf = (query: Record<string, string>): string => `/v1/stream?${new URLSearchParams(query)}`;

const queryOf = ({ device, lastEventId }: StreamOptions): Record<string, string> => ({
  device,
  inbox: '1',
  ...(lastEventId === '' ? {} : { lastEventId }),
});

/** An event with a name that is not known is one of a later version of the protocol. */
function eventOf(name: string, id: string | undefined, json: string): StreamEvent | undefined {
  if (!NAMES.includes(name)) return undefined;
  const event: StreamEvent = JSON.parse(`{"name":"${name}","id":"${id ?? ''}","data":${json}}`);
  // The position of a notification is its id on the wire.
  return event.name === 'notification' ? { ...event, data: { ...event.data, position: event.id } } : event;
}

async function readByFetch(options: StreamOptions): Promise<void> {
  const { caller, signal, opened, heard, take } = options;
  const { body } = await caller.request(addressOf(queryOf(options)), { signal }, opened);
  if (body === null) throw new TypeError('This `fetch` has no streams: use `transport: "event-source"`');
  const parser = createParser({
    onEvent({ event = 'notification', id, data }) {
      // What came in one piece with it is not wanted any more, either.
      const known = signal.aborted ? undefined : eventOf(event, id, data);
      if (known !== undefined) take(known);
    },
  });
  const reader = body.getReader();
  const decoder = new TextDecoder();
  for (;;) {
    const { done, value } = await reader.read();
    if (done || signal.aborted) return;
    heard();
    parser.feed(decoder.decode(value, { stream: true }));
  }
}

/** The browser's own. It sends no header, so that the address has a ticket, and it shows no heartbeats. */
async function readByEventSource(options: StreamOptions): Promise<void> {
  const { caller, signal, opened, heard, take } = options;
  const token = await caller.token();
  const query = queryOf(options);
  if (token !== undefined) {
    const init = { ...postOf({ device: options.device }), signal };
    let taken = token;
    const answer = await caller.request('/v1/stream/tickets', init, (used = token) => (taken = used));
    const { ticket }: { ticket: string } = JSON.parse(await answer.text());
    query['ticket'] = ticket;
    opened(taken);
  } else opened(undefined);
  await new Promise<void>((resolve) => {
    const source = new EventSource(caller.url + addressOf(query), { withCredentials: token === undefined });
    const end = (): void => {
      source.close();
      resolve();
    };
    signal.addEventListener('abort', end);
    source.addEventListener('error', end);
    const listen = (name: string) => (event: MessageEvent<string>) => {
      heard();
      const known = eventOf(name, event.lastEventId, event.data);
      if (known !== undefined) take(known);
      if (name === 'bye') end();
    };
    source.addEventListener('message', listen('notification'));
    for (const name of NAMES.slice(1)) source.addEventListener(name, listen(name));
  });
}
