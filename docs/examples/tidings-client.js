const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Hands every notification of the logged-in user to `onNotification`, in order. Returns how to stop. */
export function openTidings({ key, device, onNotification, renew, onGap, onEnd, ...options }) {
  const { url = '', fetch = globalThis.fetch, storage = globalThis.sessionStorage } = options;
  const { open = (address) => new EventSource(address) } = options;
  let received = storage?.getItem(key) ?? ''; // Where the stream is. The storage has where the page is.
  let source, handled, confirming;
  let failures = 0;
  let work = Promise.resolve();

  function connect() {
    source?.close();
    source = open(`${url}/v1/stream?${new URLSearchParams({ device, lastEventId: received })}`);
    const on = (name, act) => source.addEventListener(name, (e) => act(JSON.parse(e.data), e.lastEventId));
    on('message', (notification, position) => move(position, notification));
    on('caught-up', (_, position) => move(position));
    on('position', (_, position) => move(position));
    on('sync', (sync) => {
      failures = 0;
      if (sync.resume === 'gap' || sync.resume === 'reset') onGap?.(sync);
    });
    on('gap', (gap) => onGap?.(gap));
    on('expiring', ({ at }) => void comeBack(((Date.parse(at) - Date.now()) * Math.random()) / 2));
    on('bye', (bye) => {
      if (bye.reconnect) return;
      stop();
      onEnd?.(bye.reason);
    });
    // A lost connection it opens again by itself. After an answer other than 200 it is closed for good.
    source.addEventListener('error', () => {
      if (source?.readyState !== 2) return;
      void comeBack(Math.min(30_000, 1_000 * 2 ** failures) * (0.5 + Math.random()));
      failures += 1;
    });
  }

  async function comeBack(ms) {
    const left = source;
    await pause(ms);
    await Promise.resolve().then(renew).catch(console.error);
    if (source === left) connect();
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
    const headers = { 'content-type': 'application/json' };
    const request = { method: 'POST', headers, body: JSON.stringify({ device, upTo }) };
    const { status } = await fetch(`${url}/v1/acks`, request).catch(() => ({ status: 503 }));
    const failed = status === 401 || status >= 500;
    confirming = undefined;
    if (source && (failed || upTo !== handled))
      confirming = confirm(failed ? 5_000 + 10_000 * Math.random() : 500);
  }

  function stop() {
    source?.close();
    source = undefined;
  }

  connect();
  return stop;
}
