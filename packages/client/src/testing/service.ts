import type { Clock } from '../surroundings.ts';
import type { Bye, Filter, Notification, Sync } from '../wire.ts';
import { StreamBody } from './body.ts';
import { realClock } from './clock.ts';
import { FakeInbox, type Counted } from './inbox.ts';
import { positionIn, positionOf, timeOf, timeText, type Entry, type Log, type Reader } from './log.ts';
import {
  check,
  credentialsConflict,
  hasMembers,
  isBoolean,
  isDevice,
  isOneOf,
  isPosition,
  isRecord,
  isText,
  isToken,
  isType,
  isUuid,
  PROBLEMS,
  Refusal,
  ticketInvalid,
  tokenInQuery,
  tokenInvalid,
  tokenMissing,
  type ProblemCode,
  type Rule,
} from './problems.ts';
import { byeFrame, FakeStream, greeting, RETRY_MS, type Grant, type Host } from './stream.ts';

/** How a fake service is set up. */
export interface FakeServiceOptions {
  /** Default: the real time. */
  readonly clock?: Clock;
  /** Default: `acme`. */
  readonly tenant?: string;
  /** Default: 15. */
  readonly heartbeatSeconds?: number;
  /** Of everything that is drawn: ids, jitter, the moment before the end of a token. The same gives the same. Default: 1. */
  readonly seed?: number;
}

/** What is published, as `POST /v1/notifications` takes it, to one recipient. */
export interface Publication {
  readonly to: Notification['to'];
  readonly type: string;
  readonly data: unknown;
  /** RFC 3339. */
  readonly expiresAt?: string;
  /** `false`: a signal for the app, which no inbox shows. */
  readonly inbox?: boolean;
}

/** A device as the service knows it. */
export interface KnownDevice {
  readonly device: string;
  /** Where `undelivered` begins. */
  readonly cursor: string;
  /** How far it has confirmed; null: nothing yet. */
  readonly acknowledged: string | null;
}

/** A stream that is open, as the service sees it. */
export interface OpenStream {
  readonly connectionId: string;
  readonly user: string;
  readonly device: string;
  readonly topics: readonly string[];
  readonly inbox: boolean;
}

/** A request that came, whatever became of it. */
export interface SeenRequest {
  /** Method and path: `POST /v1/acks`. */
  readonly route: string;
  readonly query: Readonly<Record<string, string>>;
  /** As text; empty: none. */
  readonly body: string;
  /** The bearer token. */
  readonly token: string | undefined;
  /** ms since 1970, by the clock of the service. */
  readonly at: number;
}

/**
 * What a request is told in place of its answer; nothing is done.
 *
 * - `unreachable`: the network fails
 * - `problem`: a problem document of the service
 * - `bye`: a stream that says why it ends, and ends
 * - `status`: an answer of a proxy
 */
export type FakeRefusal =
  | 'unreachable'
  | { readonly problem: ProblemCode; readonly retryAfter?: number }
  | { readonly bye: Bye['reason']; readonly retryAfterMs?: number }
  | { readonly status: number; readonly body?: string };

/** Which requests a fault meets. */
export interface FaultScope {
  /** Method and path: `POST /v1/acks`. Default: all. */
  readonly route?: string;
  /** The next so many. Default: 1. */
  readonly times?: number;
}

/** Answers that a test holds back. */
export interface HeldAnswers {
  /** How many wait. */
  readonly waiting: number;
  /** Lets those go that wait, and holds no more. */
  release(): void;
}

/** What goes wrong, by script. All of it is for the requests and streams that a test names, and nothing happens by chance. */
export interface FakeFaults {
  /** False: streams have no heartbeats. */
  heartbeats: boolean;
  /** True: chunks of streams are torn apart at any byte. */
  tear: boolean;
  /** Refuses requests. */
  refuse(refusal: FakeRefusal, scope?: FaultScope): void;
  /** Does what is asked, and loses the answer: the request fails. */
  loseAnswer(scope?: FaultScope): void;
  /** Holds answers back. `done`: what is asked is done at once (default), or only when it is let go. */
  hold(scope?: FaultScope & { readonly done?: boolean }): HeldAnswers;
  /** Cuts open streams, of one user or all. With `afterBytes` within the next event, behind so many bytes of it. */
  cut(options?: { readonly user?: string; readonly afterBytes?: number }): void;
  /** Ends open streams with `bye`. */
  bye(reason: Bye['reason'], options?: { readonly user?: string; readonly retryAfterMs?: number }): void;
  /** The next stream begins so many notifications (1) before its position: they come twice. */
  repeat(count?: number): void;
  /** A black hole: what is open stays open and nothing comes of it, ever. What is asked until the returned function is called is never answered. */
  goSilent(): () => void;
  /** Open streams get nothing of the log until the returned function is called, as those that do not read. */
  stall(): () => void;
  /** A token is good for nothing any more. Its streams end. */
  revoke(token: string): void;
  /** All tokens that were made so far end now. */
  endTokens(): void;
  /** Retention removes everything up to this position (all): what begins before it meets a gap. */
  retain(after?: string): void;
  /**
   * The service stops and is there again. `lostAfter`: it is that of a backup, which ends there. Default: nothing is lost.
   * Streams are told so, or with `kill` only cut.
   */
  restart(options?: { readonly lostAfter?: string; readonly kill?: boolean }): void;
}

/** A service in memory, which speaks as the real one does. */
export interface FakeService {
  /** The network and the service behind it: whatever host is asked. Cookies are sent with `credentials: 'include'` alone. */
  readonly fetch: typeof globalThis.fetch;
  readonly faults: FakeFaults;
  /** All requests so far, oldest first. */
  readonly requests: readonly SeenRequest[];
  /** A token of a user. `lifetimeMs`: an hour if absent. `device`: the claim. */
  token(options: {
    readonly user: string;
    readonly topics?: readonly string[];
    readonly device?: string;
    readonly lifetimeMs?: number;
  }): string;
  /** Stores it, and sends it to the streams that are open. */
  publish(publication: Publication): {
    readonly id: string;
    readonly position: string;
    readonly createdAt: string;
  };
  /** The end of the log. */
  readonly head: string;
  devices(user: string): KnownDevice[];
  /** Those that are open, the oldest first. */
  streams(): OpenStream[];
  /** How far a device has confirmed; of several users with such a device the first. Undefined: nothing. */
  acknowledged(device: string, user?: string): string | undefined;
}

/** Starts one, with an empty log. */
export function createFakeService(options: FakeServiceOptions = {}): FakeService {
  return new Service(options);
}

interface Device {
  cursor: number;
  acknowledged: number | undefined;
}

interface Ask {
  readonly request: SeenRequest;
  readonly headers: Headers;
  readonly url: URL;
  readonly includesCookie: boolean;
}

/** A fault for the next requests. */
interface Scoped {
  readonly route: string | undefined;
  times: number;
}

type Handler = (ask: Ask) => Response;

const TICKET_MS = 30_000;
/** A token is taken on requests for so long after its end, in ms. */
const TOLERANCE_MS = 5_000;
const JSON_TYPE = 'application/json; charset=utf-8';
const TOKEN_NAMES = new Set(['access_token', 'token', 'jwt']);

class Service implements FakeService, Host {
  readonly requests: SeenRequest[] = [];
  readonly clock: Clock;
  readonly log: Log = { entries: [], head: 0, floor: 0 };
  readonly faults: Faults;
  readonly random: () => number;
  readonly #tenant: string;
  readonly #heartbeatSeconds: number;
  readonly #grants = new Map<string, Grant>();
  readonly #revoked = new Set<string>();
  readonly #tickets = new Map<
    string,
    { readonly grant: Grant; readonly device: string; readonly expiresAt: number }
  >();
  readonly #devices = new Map<string, Map<string, Device>>();
  readonly #inboxes = new Map<string, FakeInbox>();
  readonly #streams = new Set<FakeStream>();
  /** The token in the cookie of the browser. */
  #cookie: string | undefined;

  readonly #routes: Readonly<Record<string, Handler>> = {
    'GET /v1/stream': (ask) => this.#openStream(ask),
    'POST /v1/stream/renewals': (ask) => this.#renew(ask),
    'POST /v1/stream/tickets': (ask) => this.#issueTicket(ask),
    'POST /v1/acks': (ask) => this.#acknowledge(ask),
    'POST /v1/session': (ask) => this.#beginSession(ask),
    'DELETE /v1/session': (ask) => this.#endSession(ask),
    'GET /v1/inbox': (ask) => this.#listInbox(ask),
    'GET /v1/inbox/counts': (ask) => this.#countInbox(ask),
    'POST /v1/inbox/marks': (ask) => this.#mark(ask),
  };

  constructor({ clock = realClock(), tenant = 'acme', heartbeatSeconds = 15, seed = 1 }: FakeServiceOptions) {
    this.clock = clock;
    this.#tenant = tenant;
    this.#heartbeatSeconds = heartbeatSeconds;
    this.random = generator(seed);
    this.faults = new Faults(this, {
      streams: (user) => [...this.#streams].filter(({ grant }) => user === undefined || grant.user === user),
      revoke: (token) => void this.#revoked.add(token),
      endTokens: () => {
        for (const grant of this.#grants.values())
          grant.expiresAt = Math.min(grant.expiresAt, this.clock.now() - TOLERANCE_MS);
      },
      loseAfter: (position) => this.#loseAfter(position),
    });
  }

  get head(): string {
    return String(this.log.head);
  }

  token({
    user,
    topics = [],
    device,
    lifetimeMs = 3_600_000,
  }: {
    readonly user: string;
    readonly topics?: readonly string[];
    readonly device?: string;
    readonly lifetimeMs?: number;
  }): string {
    const token = `fake.${this.#grants.size}.${this.#uuid()}`;
    this.#grants.set(token, { token, user, topics, device, expiresAt: this.clock.now() + lifetimeMs });
    return token;
  }

  publish({ to, type, data, expiresAt, inbox = true }: Publication) {
    const position = Math.max(this.log.head, positionOf(this.clock.now())) + 1;
    const entry: Entry = {
      id: this.#uuid(),
      position,
      type,
      to,
      data: structuredClone(data),
      expiresAt: expiresAt === undefined ? null : Date.parse(expiresAt),
      inbox,
    };
    this.log.entries.push(entry);
    this.log.head = position;
    for (const stream of [...this.#streams]) stream.readOn();
    return { id: entry.id, position: String(position), createdAt: timeText(timeOf(position)) };
  }

  devices(user: string): KnownDevice[] {
    return [...(this.#devices.get(user) ?? [])].map(([device, { cursor, acknowledged }]) => ({
      device,
      cursor: String(cursor),
      acknowledged: acknowledged === undefined ? null : String(acknowledged),
    }));
  }

  streams(): OpenStream[] {
    return [...this.#streams].map(({ connectionId, grant: { user, topics }, device, hasInbox: inbox }) => ({
      connectionId,
      user,
      device,
      topics,
      inbox,
    }));
  }

  acknowledged(device: string, user?: string): string | undefined {
    for (const [owner, devices] of this.#devices) {
      const upTo = devices.get(device)?.acknowledged;
      if (upTo !== undefined && (user === undefined || owner === user)) return String(upTo);
    }
    return undefined;
  }

  count({ user, topics }: Reader, head: number): Counted {
    return this.#inboxOf(user, head).count(topics, this.clock.now());
  }

  written({ autoAck, grant, device, position }: FakeStream): void {
    const known = this.#devices.get(grant.user)?.get(device);
    if (autoAck && known !== undefined) known.cursor = Math.max(known.cursor, position);
  }

  left(stream: FakeStream): void {
    this.#streams.delete(stream);
  }

  readonly fetch = async (input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> => {
    const signal = init.signal ?? (input instanceof Request ? input.signal : undefined);
    signal?.throwIfAborted();
    const asked = new Request(input, { ...init, signal: null });
    const includesCookie = asked.credentials === 'include';
    const { method, headers } = asked;
    const url = new URL(asked.url);
    const route = `${method} ${url.pathname}`;
    const body = await asked.text();
    const token = /^bearer +(.*)$/i.exec(headers.get('authorization') ?? '')?.[1];
    const query = Object.fromEntries(url.searchParams);
    const request = { route, query, body, token, at: this.clock.now() };
    this.requests.push(request);
    const answer = this.faults.apply(request, signal, () =>
      this.#answer({ request, headers, url, includesCookie }),
    );
    return await untilAborted(answer, signal);
  };

  #answer(ask: Ask): Response {
    const response = this.#answerOrRefuse(ask);
    response.headers.set('x-request-id', ask.headers.get('x-request-id') ?? this.#uuid());
    return response;
  }

  #answerOrRefuse(ask: Ask): Response {
    try {
      return this.#handle(ask);
    } catch (error) {
      if (error instanceof Refusal) return error.toResponse();
      throw error;
    }
  }

  #handle(ask: Ask): Response {
    const { url, request } = ask;
    const name = [...url.searchParams.keys()].find((key) => TOKEN_NAMES.has(key.toLowerCase()));
    if (name !== undefined) throw tokenInQuery(name);
    const handler = this.#routes[request.route];
    if (handler !== undefined) return handler(ask);
    if (request.body !== '') this.#caller(ask);
    const allow = Object.keys(this.#routes)
      .map((route) => route.split(' '))
      .filter(([, path]) => path === url.pathname)
      .map(([method]) => (method === 'GET' ? 'GET, HEAD' : method));
    if (allow.length > 0)
      throw new Refusal('method_not_allowed', 'The path does not take this method.', {
        headers: { allow: allow.join(', ') },
      });
    throw new Refusal('not_found', 'No route has this path.');
  }

  /** Who is calling: by all credentials that there are, which have to agree. */
  #caller(
    { request, includesCookie }: Ask,
    { toleranceMs = TOLERANCE_MS, ticket }: { toleranceMs?: number; ticket?: Grant } = {},
  ): Grant {
    const bearer = request.token === undefined ? undefined : this.#verify(request.token);
    const session = includesCookie && this.#cookie !== undefined ? this.#verify(this.#cookie) : undefined;
    const caller = ticket ?? bearer ?? session;
    if (caller === undefined) throw tokenMissing();
    for (const other of [bearer, session])
      if (other !== undefined && other.user !== caller.user) throw credentialsConflict();
    if (toleranceMs === 0 && caller.expiresAt <= this.clock.now())
      throw tokenInvalid('The token has expired.');
    return caller;
  }

  #verify(token: string): Grant {
    const grant = this.#grants.get(token);
    if (grant === undefined) throw tokenInvalid('The token is not a signed JSON Web Token.');
    if (this.#revoked.has(token)) throw tokenInvalid('The token was revoked.');
    if (grant.expiresAt + TOLERANCE_MS <= this.clock.now()) throw tokenInvalid('The token has expired.');
    return grant;
  }

  #openStream(ask: Ask): Response {
    const ticket = this.#redeem(ask);
    const caller = this.#caller(ask, {
      toleranceMs: 0,
      ...(ticket === undefined ? {} : { ticket: ticket.grant }),
    });
    checkQuery(ask, STREAM_QUERY, false);
    const query = ask.url.searchParams;
    const device = ticket?.device ?? caller.device ?? query.get('device') ?? 'default';
    const stream = new FakeStream(
      this,
      {
        grant: { ...caller },
        device,
        inbox: query.get('inbox') === '1',
        autoAck: query.get('ack') === 'auto',
      },
      this.#heartbeatSeconds,
    );
    this.#streams.add(stream);
    const sent = ask.headers.get('last-event-id') || query.getAll('lastEventId').at(-1) || undefined;
    const { start, resume, from, oldest } = this.#register(caller.user, device, sent, query.get('from'));
    const sync: Sync = {
      connectionId: this.#uuid(),
      user: caller.user,
      tenant: this.#tenant,
      device,
      resume,
      from: String(from),
      head: this.head,
      ...(oldest === undefined ? {} : { oldest: String(oldest) }),
      tokenExpiresAt: timeText(caller.expiresAt),
      heartbeatSeconds: this.#heartbeatSeconds,
      features: ['inbox'],
    };
    stream.begin(sync, this.faults.earlier(start, caller));
    return streamResponse(stream.body, () => stream.stop());
  }

  /** Where a stream begins, and what that says of its device. */
  #register(
    user: string,
    device: string,
    sent: string | undefined,
    from: string | null,
  ): { start: number; resume: Sync['resume']; from: number; oldest?: number } {
    const { head, floor } = this.log;
    const position = positionIn(sent);
    const resumes = position !== undefined && position <= head;
    const devices = this.#devices.get(user) ?? new Map<string, Device>();
    this.#devices.set(user, devices);
    const known = devices.get(device) ?? {
      cursor: confirmedBy(devices.values()) ?? floor,
      acknowledged: undefined,
    };
    devices.set(device, known);
    if (resumes) confirm(known, position, floor);
    else if (from === 'latest') known.cursor = Math.max(known.cursor, head);

    if (resumes && position < floor) return { start: floor, resume: 'gap', from: position, oldest: floor };
    if (resumes) return { start: position, resume: 'exact', from: position };
    const reset = sent !== undefined;
    if (from === 'latest') return { start: head, resume: reset ? 'reset' : 'latest', from: head };
    if (from === 'earliest') return { start: floor, resume: reset ? 'reset' : 'earliest', from: floor };
    const { cursor } = known;
    if (cursor < floor) return { start: floor, resume: reset ? 'reset' : 'gap', from: cursor, oldest: floor };
    return { start: cursor, resume: reset ? 'reset' : 'undelivered', from: cursor };
  }

  #redeem(ask: Ask): { readonly grant: Grant; readonly device: string } | undefined {
    const text = ask.url.searchParams.get('ticket');
    if (text === null) return undefined;
    const ticket = this.#tickets.get(text);
    if (ticket === undefined || ticket.expiresAt <= this.clock.now()) throw ticketInvalid();
    checkQuery(ask, STREAM_QUERY, false);
    this.#tickets.delete(text);
    if (this.#revoked.has(ticket.grant.token)) throw tokenInvalid('The token was revoked.');
    return ticket;
  }

  #issueTicket(ask: Ask): Response {
    const grant = this.#caller(ask, { toleranceMs: 0 });
    checkQuery(ask, {});
    const body = bodyOf(ask, { device: isDevice }, { optional: true });
    const ticket = `fake.${this.#uuid()}`;
    const expiresAt = Math.min(this.clock.now() + TICKET_MS, grant.expiresAt);
    this.#tickets.set(ticket, {
      grant,
      device: grant.device ?? textOf(body['device']) ?? 'default',
      expiresAt,
    });
    return json(201, { ticket, expiresAt: timeText(expiresAt) }, { 'cache-control': 'no-store' });
  }

  #renew(ask: Ask): Response {
    const caller = this.#caller(ask);
    checkQuery(ask, {});
    const body = bodyOf(ask, { connectionId: isUuid, token: isToken }, { needed: ['connectionId', 'token'] });
    const grant = this.#verify(textOf(body['token']) ?? '');
    if (grant.expiresAt <= this.clock.now()) throw tokenInvalid('The token has expired.');
    if (grant.user !== caller.user) throw mismatch('user');
    const stream = [...this.#streams].find(
      (one) => one.connectionId === body['connectionId'] && one.grant.user === caller.user,
    );
    if (stream === undefined)
      throw new Refusal('not_found', 'No stream of this user with this connectionId is open.');
    if (grant.device !== undefined && grant.device !== stream.device) throw mismatch('device');
    stream.renew({ ...grant });
    return json(202, { tokenExpiresAt: timeText(grant.expiresAt) });
  }

  #acknowledge(ask: Ask): Response {
    const { user, device: claimed } = this.#caller(ask);
    checkQuery(ask, {});
    const upToRule = isPosition('is a position: the `id:` of an event of the stream');
    const body = bodyOf(ask, { upTo: upToRule, device: isDevice }, { needed: ['upTo'] });
    const upTo = positionIn(body['upTo']) ?? 0;
    const device = claimed ?? textOf(body['device']) ?? 'default';
    if (upTo > this.log.head) throw ahead(['upTo'], 'is ahead of the log');
    const known = this.#devices.get(user)?.get(device);
    if (known === undefined)
      throw new Refusal('device_unknown', `The device ${device} of this user has never opened a stream.`);
    confirm(known, upTo, this.log.floor);
    return new Response(null, { status: 204 });
  }

  #beginSession(ask: Ask): Response {
    const caller = this.#caller(ask, { toleranceMs: 0 });
    checkQuery(ask, {});
    bodyOf(ask, {}, { optional: true });
    if (ask.request.token === undefined) throw tokenMissing();
    this.#cookie = caller.token;
    return new Response(null, { status: 204, headers: { 'cache-control': 'no-store' } });
  }

  #endSession(ask: Ask): Response {
    checkQuery(ask, {});
    this.#cookie = undefined;
    return new Response(null, { status: 204, headers: { 'cache-control': 'no-store' } });
  }

  #countInbox(ask: Ask): Response {
    const caller = this.#caller(ask);
    checkQuery(ask, {});
    return json(200, this.count(caller, this.log.head).snapshot);
  }

  #listInbox(ask: Ask): Response {
    const { user, topics } = this.#caller(ask);
    checkQuery(ask, INBOX_QUERY);
    const query = ask.url.searchParams;
    const filter = FILTERS.find((one) => one === query.get('filter')) ?? 'all';
    const type = query.get('type') ?? undefined;
    const listing = [user, filter, type ?? null];
    const inbox = this.#inboxOf(user, this.log.head);
    const now = this.clock.now();
    const { items, next } = inbox.list(topics, now, {
      filter,
      type,
      before: readCursor(listing, query.get('cursor')),
      limit: Number(query.get('limit') ?? 50),
    });
    const nextCursor = next === undefined ? null : writeCursor(listing, next);
    return json(200, { items, nextCursor, ...inbox.count(topics, now).snapshot });
  }

  #mark(ask: Ask): Response {
    const { user, topics } = this.#caller(ask);
    checkQuery(ask, {});
    const body = bodyOf(ask, MARKS);
    const said = {
      seenUpTo: positionIn(body['seenUpTo']),
      readUpTo: positionIn(body['readUpTo']),
      archivedUpTo: positionIn(body['archivedUpTo']),
    };
    const items = (Array.isArray(body['items']) ? body['items'] : [])
      .filter(isRecord)
      .map(({ id, read, archived }) => ({
        id: (textOf(id) ?? '').toLowerCase(),
        ...(typeof read === 'boolean' ? { read } : {}),
        ...(typeof archived === 'boolean' ? { archived } : {}),
      }));
    const tooFar = Object.entries(said).filter(([, position]) => (position ?? 0) > this.log.head);
    if (tooFar.length > 0)
      throw ahead(
        tooFar.map(([name]) => name),
        'is no position that was shown',
      );
    const inbox = this.#inboxOf(user, this.log.head);
    const now = this.clock.now();
    const { unknown, changed } = inbox.mark(topics, now, {
      ...said,
      items,
      revision: positionIn(body['revision']),
    });
    const answer = json(200, { ...inbox.count(topics, now).snapshot, unknown });
    if (changed) for (const stream of [...this.#streams]) if (stream.grant.user === user) stream.inboxDue();
    return answer;
  }

  #inboxOf(user: string, head: number): FakeInbox {
    const confirmed = confirmedBy(this.#devices.get(user)?.values() ?? []);
    const since = confirmed ?? Math.min(head, this.log.head);
    const inbox =
      this.#inboxes.get(user) ?? new FakeInbox(this.log, user, since, confirmed ?? 0, this.clock.now());
    this.#inboxes.set(user, inbox);
    return inbox;
  }

  #loseAfter(position: number): void {
    this.log.head = position;
    this.log.entries = this.log.entries.filter((entry) => entry.position <= position);
    for (const devices of this.#devices.values())
      for (const device of devices.values()) {
        device.cursor = Math.min(device.cursor, position);
        if (device.acknowledged !== undefined) device.acknowledged = Math.min(device.acknowledged, position);
      }
    for (const inbox of this.#inboxes.values()) inbox.goBack(this.clock.now());
  }

  /** A UUIDv7. */
  #uuid(): string {
    const time = Math.floor(this.clock.now()).toString(16).padStart(12, '0');
    const digits = Array.from({ length: 19 }, () => Math.floor(this.random() * 16).toString(16)).join('');
    const variant = (8 + Math.floor(this.random() * 4)).toString(16);
    return `${time.slice(0, 8)}-${time.slice(8)}-7${digits.slice(0, 3)}-${variant}${digits.slice(3, 6)}-${digits.slice(6, 18)}`;
  }
}

/** What faults need of the inside. */
interface Inside {
  streams(user: string | undefined): FakeStream[];
  revoke(token: string): void;
  endTokens(): void;
  loseAfter(position: number): void;
}

class Faults implements FakeFaults {
  heartbeats = true;
  tear = false;
  readonly #service: Pick<Service, 'log' | 'random'>;
  readonly #inside: Inside;
  readonly #refusals: (Scoped & { readonly refusal: FakeRefusal })[] = [];
  readonly #losses: Scoped[] = [];
  readonly #holds: (Scoped & { readonly done: boolean; readonly waiting: (() => void)[] })[] = [];
  #repeats = 0;
  #isSilent = false;

  constructor(service: Pick<Service, 'log' | 'random'>, inside: Inside) {
    this.#service = service;
    this.#inside = inside;
  }

  refuse(refusal: FakeRefusal, { route, times = 1 }: FaultScope = {}): void {
    this.#refusals.push({ refusal, route, times });
  }

  loseAnswer({ route, times = 1 }: FaultScope = {}): void {
    this.#losses.push({ route, times });
  }

  hold({ route, times = 1, done = true }: FaultScope & { readonly done?: boolean } = {}): HeldAnswers {
    const rule = { route, times, done, waiting: new Array<() => void>() };
    this.#holds.push(rule);
    return {
      get waiting() {
        return rule.waiting.length;
      },
      release() {
        rule.times = 0;
        for (const go of rule.waiting.splice(0)) go();
      },
    };
  }

  cut({ user, afterBytes }: { readonly user?: string; readonly afterBytes?: number } = {}): void {
    for (const stream of this.#inside.streams(user)) {
      if (afterBytes === undefined) {
        stream.body.cut();
        stream.stop();
      } else stream.body.cutNextAfter(afterBytes);
    }
  }

  bye(
    reason: Bye['reason'],
    { user, retryAfterMs }: { readonly user?: string; readonly retryAfterMs?: number } = {},
  ): void {
    for (const stream of this.#inside.streams(user)) stream.end(reason, retryAfterMs);
  }

  repeat(count = 1): void {
    this.#repeats = count;
  }

  goSilent(): () => void {
    this.#isSilent = true;
    for (const stream of this.#inside.streams(undefined)) {
      stream.body.mute();
      stream.stop();
    }
    return () => {
      this.#isSilent = false;
    };
  }

  stall(): () => void {
    const stalled = this.#inside.streams(undefined);
    for (const stream of stalled) stream.isStalled = true;
    return () => {
      for (const stream of stalled) {
        stream.isStalled = false;
        stream.readOn();
      }
    };
  }

  revoke(token: string): void {
    this.#inside.revoke(token);
    for (const stream of this.#inside.streams(undefined))
      if (stream.grant.token === token) stream.end('revoked');
  }

  endTokens(): void {
    this.#inside.endTokens();
    this.bye('token-expired');
  }

  retain(after: string = String(this.#service.log.head)): void {
    const { log } = this.#service;
    log.floor = Math.max(log.floor, Math.min(Number(after), log.head));
    log.entries = log.entries.filter(({ position }) => position > log.floor);
    for (const stream of this.#inside.streams(undefined)) stream.compare();
  }

  restart({ lostAfter, kill = false }: { readonly lostAfter?: string; readonly kill?: boolean } = {}): void {
    if (kill) this.cut();
    else this.bye(lostAfter === undefined ? 'shutdown' : 'unavailable');
    if (lostAfter !== undefined) this.#inside.loseAfter(Number(lostAfter));
  }

  /** Where a stream begins that is to repeat something. */
  earlier(start: number, { user, topics }: Reader): number {
    const { entries } = this.#service.log;
    const before = entries.filter(
      ({ position, to }) =>
        position <= start &&
        ('user' in to ? to.user === user : 'everyone' in to || topics.includes(to.topic)),
    );
    const first = this.#repeats === 0 ? undefined : before.at(-Math.min(this.#repeats, before.length));
    this.#repeats = 0;
    return first === undefined ? start : first.position - 1;
  }

  /** Does what a request asks for, unless something is in the way. */
  async apply(
    { route }: SeenRequest,
    signal: AbortSignal | undefined,
    answer: () => Response,
  ): Promise<Response> {
    if (this.#isSilent) return await never();
    const refused = taken(this.#refusals, route);
    if (refused !== undefined) return this.#refusalOf(refused.refusal);
    const held = taken(this.#holds, route);
    if (held?.done === false) await waitIn(held.waiting);
    // Given up before it arrived.
    signal?.throwIfAborted();
    const response = answer();
    if (held?.done === true) await waitIn(held.waiting);
    if (taken(this.#losses, route) === undefined) return response;
    await response.body?.cancel();
    throw networkError();
  }

  #refusalOf(refusal: FakeRefusal): Response {
    if (refusal === 'unreachable') throw networkError();
    if ('problem' in refusal) {
      const { problem, retryAfter } = refusal;
      const isLater =
        retryAfter !== undefined || PROBLEMS[problem][0] === 429 || PROBLEMS[problem][0] === 503;
      const headers = isLater ? { 'retry-after': String(retryAfter ?? 1) } : {};
      return new Refusal(problem, 'The test wants it so.', { headers }).toResponse();
    }
    if ('status' in refusal) return new Response(refusal.body ?? '', { status: refusal.status });
    const body = new StreamBody(() => undefined);
    const retryMs = Math.round(RETRY_MS * (0.5 + this.#service.random()));
    body.write(greeting(retryMs));
    body.write(byeFrame(refusal.bye, refusal.retryAfterMs ?? retryMs));
    body.close();
    return streamResponse(body, () => undefined);
  }
}

/** The first that is for this route and not used up. */
function taken<Found extends Scoped>(rules: readonly Found[], route: string): Found | undefined {
  const rule = rules.find((one) => one.times > 0 && (one.route === undefined || one.route === route));
  if (rule !== undefined) rule.times -= 1;
  return rule;
}

const waitIn = (waiting: (() => void)[]): Promise<void> =>
  new Promise((resolve) => void waiting.push(resolve));

const never = (): Promise<never> => new Promise(() => undefined);

const networkError = (): TypeError => new TypeError('Failed to fetch');

/** Whose signal ends the body, too. */
const bodies = new WeakMap<Response, (reason: unknown) => void>();

function streamResponse(body: StreamBody, stop: () => void): Response {
  const response = new Response(body.readable, {
    headers: {
      'content-type': 'text/event-stream',
      'cache-control': 'no-store, no-transform',
      'x-accel-buffering': 'no',
    },
  });
  bodies.set(response, (reason) => {
    body.abort(reason);
    stop();
  });
  return response;
}

async function untilAborted(answer: Promise<Response>, signal: AbortSignal | undefined): Promise<Response> {
  if (signal === undefined) return await answer;
  const aborted = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
  const race = Promise.race([answer, aborted]);
  void endWith(answer, signal);
  return await race;
}

/** What is answered to nobody is not left open. */
async function endWith(answer: Promise<Response>, signal: AbortSignal): Promise<void> {
  const response = await answer.catch(() => undefined);
  const abort = response === undefined ? undefined : bodies.get(response);
  if (signal.aborted) abort?.(signal.reason);
  else signal.addEventListener('abort', () => abort?.(signal.reason), { once: true });
}

function json(status: number, body: object, headers: Record<string, string> = {}): Response {
  return new Response(JSON.stringify(body), { status, headers: { 'content-type': JSON_TYPE, ...headers } });
}

const textOf = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined);

const mismatch = (what: string): Refusal =>
  new Refusal('subject_mismatch', `The new token is not that of the ${what} of the stream.`);

const ahead = (names: readonly string[], detail: string): Refusal =>
  new Refusal('position_unknown', 'Nothing has been published at this position yet.', {
    errors: names.map((name) => ({ pointer: `/${name}`, detail })),
  });

function confirm(device: Device, upTo: number, floor: number): void {
  if (upTo > device.cursor && upTo > floor) device.acknowledged = upTo;
  device.cursor = Math.max(device.cursor, upTo);
}

/** The furthest that any of them has confirmed. */
function confirmedBy(devices: Iterable<Device>): number | undefined {
  const confirmed = [...devices].flatMap(({ acknowledged }) => acknowledged ?? []);
  return confirmed.length === 0 ? undefined : Math.max(...confirmed);
}

/* Requests. */

const FILTERS = ['all', 'unread', 'unseen', 'archived'] as const satisfies readonly Filter[];

const anyText: Rule = isText(/^/, 'is text');

const STREAM_QUERY: Readonly<Record<string, Rule>> = {
  device: isDevice,
  from: isOneOf('undelivered', 'latest', 'earliest'),
  ack: isOneOf('explicit', 'auto'),
  inbox: isOneOf('1'),
};

const INBOX_QUERY: Readonly<Record<string, Rule>> = {
  filter: isOneOf(...FILTERS),
  type: isType,
  limit: isText(/^(?:[1-9][0-9]?|1[0-9][0-9]|200)$/, 'is a whole number from 1 to 200'),
  cursor: anyText,
};

const SHOWN = isPosition('is a position: that of an item, or of a snapshot');

const ITEM = hasMembers({ id: isUuid, read: isBoolean, archived: isBoolean }, { needed: ['id'] });

const MARKS: Readonly<Record<string, Rule>> = {
  seenUpTo: SHOWN,
  readUpTo: SHOWN,
  archivedUpTo: SHOWN,
  revision: SHOWN,
  items(value) {
    if (!Array.isArray(value)) return [{ pointer: '', detail: 'is a list' }];
    const items: readonly unknown[] = value;
    if (items.length > 200) return [{ pointer: '', detail: 'holds at most 200 items' }];
    const ids = new Set<unknown>();
    return items.flatMap((item, index) => {
      const at = (pointer: string, detail: string) => ({ pointer: `/${index}${pointer}`, detail });
      const faults = ITEM(item).map(({ pointer, detail }) => at(pointer, detail));
      if (faults.length > 0 || !isRecord(item)) return faults;
      if (item['read'] === undefined && item['archived'] === undefined)
        return [at('', 'says read, archived, or both')];
      const id = textOf(item['id'])?.toLowerCase();
      if (ids.has(id)) return [at('/id', 'is in this request already; name each notification once')];
      ids.add(id);
      return [];
    });
  },
};

/** Throws a Refusal. */
function checkQuery({ url }: Ask, rules: Readonly<Record<string, Rule>>, strict = true): void {
  const names = new Set(url.searchParams.keys());
  const query = Object.fromEntries(
    [...names].map((name) => {
      const values = url.searchParams.getAll(name);
      return [name, values.length === 1 ? values[0] : values];
    }),
  );
  check(hasMembers(rules, { strict }), query, 'The query is not valid.');
}

/** Its members, which are what they have to be. Throws a Refusal. */
function bodyOf(
  { request: { body }, headers }: Ask,
  rules: Readonly<Record<string, Rule>>,
  { needed = [], optional = false }: { needed?: readonly string[]; optional?: boolean } = {},
): Record<string, unknown> {
  if (body === '' && optional) return {};
  if (body === '') throw new Refusal('malformed_json', 'The body is empty.');
  if (!/^application\/json\b/i.test(headers.get('content-type') ?? ''))
    throw new Refusal('unsupported_media_type', 'The body must be application/json.');
  const value = parsed(body);
  check(hasMembers(rules, { needed }), value);
  return isRecord(value) ? value : {};
}

function parsed(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch (error) {
    // V8 says where.
    const place = /at position (\d+)/.exec(String(error))?.[1];
    const where = place === undefined ? '' : ` at character ${place}`;
    throw new Refusal('malformed_json', `The body is not valid JSON${where}.`);
  }
}

/* A cursor says where a listing goes on, and of which listing it is. */

const writeCursor = (listing: readonly unknown[], before: number): string =>
  btoa(encodeURIComponent(JSON.stringify([listing, before])))
    .replaceAll('+', '-')
    .replaceAll('/', '_')
    .replaceAll('=', '');

function readCursor(listing: readonly unknown[], cursor: string | null): number {
  if (cursor === null) return Infinity;
  const before = /(\d+)\]$/.exec(decoded(cursor))?.[1];
  if (before !== undefined && writeCursor(listing, Number(before)) === cursor) return Number(before);
  throw new Refusal('validation_failed', 'The query is not valid.', {
    errors: [
      {
        pointer: '/cursor',
        detail: 'is no cursor of this listing; send it with the filters that it came with',
      },
    ],
  });
}

function decoded(cursor: string): string {
  try {
    return decodeURIComponent(atob(cursor.replaceAll('-', '+').replaceAll('_', '/')));
  } catch {
    return '';
  }
}

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
