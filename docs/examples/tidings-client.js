const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Hands every notification of the logged-in user to `onNotification`, in order. Returns how to stop. */
export function openTidings({ key, device, onNotification, token, renew, onGap, onEnd, ...options }) {
  const { url = '', storage = globalThis.sessionStorage } = options;
  const usesTickets = token !== undefined && options.open === undefined;
  const { open = (address) => new EventSource(address, { withCredentials: token === undefined }) } = options;
  let received = storage?.getItem(key) ?? ''; // Where the stream is. The storage has where the page is.
  let stopped = false;
  let source, handled, confirming;
  let failures = 0;
  let work = Promise.resolve();

  async function connect() {
    const left = source;
    left?.close();
    const query = new URLSearchParams({ device, lastEventId: received });
    if (usesTickets) {
      const answer = await post('/v1/stream/tickets', { device }).catch(() => undefined);
      if (answer?.status !== 201) return comeBack(left, backOff(), answer?.status === 401);
      query.set('ticket', (await answer.json()).ticket);
    }
    if (stopped || source !== left) return;
    source = open(`${url}/v1/stream?${query}`, () => token);
    listen(source);
  }

  function listen(opened) {
    let connectionId, wait;
    const on = (name, act) => opened.addEventListener(name, (e) => act(JSON.parse(e.data), e.lastEventId));
    on('message', (notification, position) => move(position, notification));
    on('caught-up', (_, position) => move(position));
    on('position', (_, position) => move(position));
    on('sync', (sync) => {
      failures = 0;
      connectionId = sync.connectionId;
      if (sync.resume === 'gap' || sync.resume === 'reset') onGap?.(sync);
    });
    on('gap', (gap) => onGap?.(gap));
    on('expiring', ({ at }) => void extend(opened, connectionId, Date.parse(at) - Date.now()));
    on('bye', (bye) => {
      wait = bye.retryAfterMs;
      if (bye.reconnect) return;
      stop();
      onEnd?.(bye.reason);
    });
    // A lost connection it opens again by itself, but not with a ticket, which opens one. After an answer other than 200
    // it is closed for good, and does not say why.
    opened.addEventListener('error', () => {
      if (source !== opened || (opened.readyState !== 2 && !usesTickets)) return;
      opened.close();
      void comeBack(opened, wait ?? backOff(), !usesTickets);
    });
  }

  const backOff = () => Math.min(30_000, 1_000 * 2 ** failures++) * (0.5 + Math.random());

  async function comeBack(left, ms, refused) {
    await pause(ms);
    if (refused) await refresh();
    if (!stopped && source === left) await connect();
  }

  async function refresh() {
    const renewed = await Promise.resolve().then(renew).catch(console.error);
    if (token !== undefined) token = renewed ?? token;
  }

  // A page that holds the token keeps its stream; behind a cookie or a proxy it opens a new one.
  async function extend(left, connectionId, ms) {
    await pause((ms * Math.random()) / 2);
    if (stopped || source !== left) return;
    await refresh();
    const renewal = () => post('/v1/stream/renewals', { connectionId, token }).catch(() => undefined);
    const answer = token === undefined ? undefined : await renewal();
    if (answer?.status !== 202 && !stopped && source === left) await connect();
  }

  function post(path, body) {
    const headers = { 'content-type': 'application/json' };
    if (token !== undefined) headers.authorization = `Bearer ${token}`;
    const credentials = token === undefined ? 'include' : 'same-origin';
    return fetch(`${url}${path}`, { method: 'POST', headers, credentials, body: JSON.stringify(body) });
  }

  function move(position, notification) {
    received = position;
    work = handle(work, position, notification).catch(console.error);
  }

  // One after the other: what the page has not handled is not stored, and comes again after a reload.
  async function handle(earlier, position, notification) {
    await earlier;
    if (notification !== undefined) {
      await onNotification(notification);
      handled = position;
      confirming ??= confirm(500);
    }
    storage?.setItem(key, position);
  }

  // One request at a time, for all that was handled meanwhile; repeated when it failed.
  async function confirm(ms) {
    await pause(ms);
    const upTo = handled;
    const { status } = await post('/v1/acks', { device, upTo }).catch(() => ({ status: 503 }));
    const failed = status === 401 || status >= 500;
    confirming = undefined;
    if (!stopped && (failed || upTo !== handled))
      confirming = confirm(failed ? 5_000 + 10_000 * Math.random() : 500);
  }

  function stop() {
    stopped = true;
    source?.close();
  }

  void connect();
  return stop;
}
