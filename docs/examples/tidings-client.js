/**
 * A notification, as the stream brings it.
 * @typedef {{ id: string, type: string, to: object, data: unknown, createdAt: string, expiresAt: string | null, inbox?: false }} TidingsNotification
 */

/**
 * What is new in the inbox. Not `exact`: there may be more.
 * @typedef {{ unread: number, unseen: number, exact: boolean }} TidingsNumbers
 */

/**
 * One connection: what it was told of the inbox, and what it has brought since.
 * @typedef {object} TidingsStream
 * @property {AbortController} open
 * @property {string} id
 * @property {number} wait
 * @property {(TidingsNumbers & { position: string }) | undefined} inbox
 * @property {{ position: string, expiresAt: number }[]} brought
 * @property {string} told
 */

/**
 * @typedef {object} TidingsOptions
 * @property {string} key
 * @property {string} device
 * @property {(notification: TidingsNotification) => unknown} onNotification
 * @property {string} [token]
 * @property {() => unknown} [renew]
 * @property {(numbers: TidingsNumbers) => void} [onInbox]
 * @property {(gap: object) => void} [onGap]
 * @property {(reason: string) => void} [onEnd]
 * @property {Pick<Storage, 'getItem' | 'setItem'>} [storage]
 * @property {string} [url]
 * @property {number} [silenceMs]
 */

/** @param {number} ms */
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Hands every notification of the logged-in user to `onNotification`, in order. Returns how to stop.
 * @param {TidingsOptions} options
 * @returns {() => void}
 */
export function openTidings({
  key,
  device,
  onNotification,
  token,
  renew,
  onInbox,
  onGap,
  onEnd,
  ...options
}) {
  const { url = '', storage = globalThis.sessionStorage, silenceMs = 45_000 } = options;
  let received = storage?.getItem(key) ?? ''; // Where the stream is. The storage has where the page is.
  let stopped = false;
  let failures = 0;
  let renewed = false; // Whether the last attempt was refused, and the page had something new to come back with.
  let wake = () => {}; // Ends the stream that is open, or the wait for the next.
  let handled = '';
  /** @type {Promise<void> | undefined} */
  let confirming;
  let work = Promise.resolve();

  async function run() {
    const ms = await read().catch(backOff);
    if (!stopped) await Promise.race([pause(ms), new Promise((resolve) => (wake = () => resolve(ms)))]);
    if (!stopped) void run();
  }

  const backOff = () => Math.min(30_000, 1_000 * 2 ** failures++) * (0.5 + Math.random());

  // Reads one stream to its end. Returns how long to wait before the next, in ms.
  async function read() {
    const again = renewed;
    renewed = false;
    /** @type {TidingsStream} */
    const stream = { open: new AbortController(), id: '', wait: -1, inbox: undefined, brought: [], told: '' };
    wake = () => stream.open.abort();
    let watchdog = setTimeout(wake, silenceMs);
    try {
      const query = new URLSearchParams({ device, lastEventId: received, ...(onInbox && { inbox: '1' }) });
      const answer = await call(`/v1/stream?${query}`, { signal: stream.open.signal, cache: 'no-store' });
      const reader = answer.status === 200 ? answer.body?.getReader() : undefined;
      if (reader === undefined) return await refused(answer, again);
      const decoder = new TextDecoder();
      for (let text = ''; ;) {
        const { done, value } = await reader.read();
        if (done) return stream.wait < 0 ? backOff() : stream.wait;
        clearTimeout(watchdog);
        watchdog = setTimeout(wake, silenceMs);
        const events = (text + decoder.decode(value, { stream: true })).split('\n\n');
        text = events.pop() ?? '';
        for (const event of events) if (!stopped) take(event, stream);
        if (!stopped) count(stream);
      }
    } finally {
      clearTimeout(watchdog);
      stream.open.abort();
    }
  }

  /**
   * The service writes each field on one line. An event without data is a comment: the heartbeat.
   * @param {string} event
   * @param {TidingsStream} stream
   */
  function take(event, stream) {
    /** @type {Record<string, string>} */
    const fields = {};
    for (const line of event.split('\n')) {
      const colon = line.indexOf(':');
      fields[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
    }
    const { event: name, id, data: json } = fields;
    if (json === undefined) return;
    const data = JSON.parse(json);
    if (id !== undefined) move(id, name === undefined ? data : undefined);
    if (name === undefined && data.inbox !== false)
      stream.brought.push({ position: id ?? '', expiresAt: Date.parse(data.expiresAt ?? '9999-01-01') });
    if (name === 'inbox') stream.inbox = data;
    if (name === 'sync') {
      failures = 0;
      stream.id = data.connectionId;
    }
    if (name === 'gap' || (name === 'sync' && ['gap', 'reset'].includes(data.resume))) onGap?.(data);
    if (name === 'expiring') void extend(stream, Date.parse(data.at) - Date.now());
    if (name === 'bye') {
      stream.wait = data.retryAfterMs;
      if (!data.reconnect) end(data.reason);
    }
  }

  /**
   * The numbers are those that this connection was told last, and what it has brought above their position.
   * @param {TidingsStream} stream
   */
  function count(stream) {
    const { inbox } = stream;
    if (inbox === undefined) return;
    const isNew = ({ position = '', expiresAt = 0 }) =>
      Number(position) > Number(inbox.position) && expiresAt > Date.now();
    stream.brought = stream.brought.filter(isNew);
    const more = stream.brought.length;
    const numbers = { unread: inbox.unread + more, unseen: inbox.unseen + more, exact: inbox.exact };
    if (JSON.stringify(numbers) === stream.told) return;
    stream.told = JSON.stringify(numbers);
    onInbox?.(numbers);
  }

  /**
   * A session whose new token is refused, too, or that has none, is over. What else the service itself refuses does not get
   * better either; what a balancer says does.
   * @param {Response} answer
   * @param {boolean} again
   */
  async function refused(answer, again) {
    const isProblem = answer.headers.get('content-type')?.startsWith('application/problem+json');
    if (answer.status === 401) {
      const outcome = again ? 'none' : await refresh();
      if (outcome === 'none') end('signed-out');
      renewed = outcome === 'new';
    } else if (isProblem && [400, 403, 404].includes(answer.status)) end((await answer.json()).code);
    return backOff();
  }

  /** A `renew` that fails has said nothing about the session: it is asked again. */
  async function refresh() {
    if (renew === undefined) return 'none';
    try {
      const next = await renew();
      if (token === undefined) return 'new';
      if (typeof next !== 'string') return 'none';
      token = next;
      return 'new';
    } catch (error) {
      console.error(error);
      return 'unknown';
    }
  }

  /**
   * A page that holds the token keeps its stream; behind a cookie or a proxy it opens a new one.
   * @param {TidingsStream} stream
   * @param {number} ms
   */
  async function extend(stream, ms) {
    await pause((ms * Math.random()) / 2);
    if (stream.open.signal.aborted) return;
    if ((await refresh()) === 'none') return end('signed-out');
    const renewal = () => post('/v1/stream/renewals', { connectionId: stream.id, token });
    const answer = token === undefined ? undefined : await renewal().catch(() => undefined);
    if (answer?.status !== 202) stream.open.abort();
  }

  /**
   * @param {string} path
   * @param {RequestInit} init
   */
  function call(path, init) {
    const headers = new Headers(init.headers);
    if (token !== undefined) headers.set('authorization', `Bearer ${token}`);
    const credentials = token === undefined ? 'include' : 'same-origin';
    return fetch(`${url}${path}`, { ...init, headers, credentials });
  }

  /**
   * @param {string} path
   * @param {object} body
   */
  function post(path, body) {
    const headers = { 'content-type': 'application/json' };
    return call(path, { method: 'POST', headers, body: JSON.stringify(body) });
  }

  /**
   * @param {string} position
   * @param {TidingsNotification} [notification]
   */
  function move(position, notification) {
    received = position;
    work = handle(work, position, notification).catch(console.error);
  }

  /**
   * One after the other: what the page has not handled is not stored, and comes again after a reload.
   * @param {Promise<void>} earlier
   * @param {string} position
   * @param {TidingsNotification} [notification]
   */
  async function handle(earlier, position, notification) {
    await earlier;
    if (notification !== undefined) {
      await onNotification(notification);
      handled = position;
      confirming ??= confirm(500);
    }
    storage?.setItem(key, position);
  }

  /**
   * One request at a time, for all that was handled meanwhile; repeated when it failed.
   * @param {number} ms
   */
  async function confirm(ms) {
    await pause(ms);
    const upTo = handled;
    const { status } = await post('/v1/acks', { device, upTo }).catch(() => ({ status: 503 }));
    const failed = status === 401 || status === 429 || status >= 500;
    confirming = undefined;
    if (!stopped && (failed || upTo !== handled))
      confirming = confirm(failed ? 5_000 + 10_000 * Math.random() : 500);
  }

  // The network is back: neither a stream from before nor the rest of a long wait is of use.
  function online() {
    failures = 0;
    wake();
  }

  /** @param {string} reason */
  function end(reason) {
    if (stopped) return;
    stop();
    onEnd?.(reason);
  }

  function stop() {
    stopped = true;
    globalThis.removeEventListener?.('online', online);
    wake();
  }

  globalThis.addEventListener?.('online', online);
  void run();
  return stop;
}
