import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

interface Pair {
  readonly near: Socket;
  readonly far: Socket;
  /** The far side is gone, and the near side was not told: what it says is lost. */
  dead: boolean;
}

/** One of its directions. */
interface Way {
  readonly pair: Pair;
  readonly from: Socket;
  readonly to: Socket;
  readonly waiting: Buffer[];
  isMoving: boolean;
  hasEnded: boolean;
}

/** How a network fails between two parts. `heal` ends all of it. */
export type LinkFault = 'cut' | 'slow' | 'stall' | 'half-open';

/** How long each piece is on its way over a slow connection, in ms. */
const SLOW_MS = 150;

/** A TCP proxy between two parts, whose connections fail as networks do. */
export class Link {
  readonly #pairs = new Set<Pair>();
  #fault: LinkFault | undefined;

  private constructor(
    readonly port: number,
    private readonly listener: Server,
  ) {}

  /** @param target port on this machine */
  static async start(target: number): Promise<Link> {
    const listener = createServer();
    await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
    const link = new Link((listener.address() as AddressInfo).port, listener);
    listener.on('connection', (near) => link.#pass(near, target));
    return link;
  }

  /**
   * - `cut`: connections are reset, and new ones as soon as they are made.
   * - `slow`: each piece takes its time.
   * - `stall`: nothing gets through, and nobody is told; what was held arrives afterwards.
   * - `half-open`: open connections lose their far side, which sees them reset, and the near side hears nothing more.
   */
  fail(fault: LinkFault): void {
    this.#fault = fault;
    for (const pair of this.#pairs) {
      if (fault === 'cut') reset(pair);
      else if (fault === 'stall') pause(pair);
      else if (fault === 'half-open') {
        pair.dead = true;
        pair.far.resetAndDestroy();
      }
    }
  }

  heal(): void {
    this.#fault = undefined;
    for (const pair of this.#pairs) {
      if (pair.dead) reset(pair);
      else {
        pair.near.resume();
        pair.far.resume();
      }
    }
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.listener.close(resolve));
    this.fail('cut');
    await closed;
  }

  #pass(near: Socket, target: number): void {
    // Lost connections are what this is for: `close` follows.
    near.on('error', () => undefined);
    if (this.#fault === 'cut') {
      near.resetAndDestroy();
      return;
    }
    const far = connect(target, '127.0.0.1');
    far.on('error', () => undefined);
    const pair: Pair = { near, far, dead: false };
    this.#pairs.add(pair);
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      // Small messages one after the other: each would wait for the acknowledgement of the one before.
      from.setNoDelay();
      const way: Way = { pair, from, to, waiting: [], isMoving: false, hasEnded: false };
      from.on('data', (bytes: Buffer) => {
        way.waiting.push(bytes);
        if (!way.isMoving) void this.#move(way);
      });
      from.on('end', () => {
        way.hasEnded = true;
        if (!way.isMoving) void this.#move(way);
      });
    }
    near.on('close', () => {
      this.#pairs.delete(pair);
      far.destroy();
    });
    far.on('close', () => {
      if (pair.dead) return;
      // Ended or reset, as it was here.
      if (far.errored === null) near.end();
      else near.resetAndDestroy();
    });
    if (this.#fault === 'stall') pause(pair);
  }

  /** In order, whatever the fault is meanwhile. Who reads slowly keeps the other side from writing, as without a proxy. */
  async #move(way: Way): Promise<void> {
    const { pair, from, to } = way;
    way.isMoving = true;
    for (let bytes = way.waiting.shift(); bytes !== undefined; bytes = way.waiting.shift()) {
      if (this.#fault === 'slow') {
        from.pause();
        await sleep(SLOW_MS);
      }
      if (pair.dead || to.destroyed || to.writableEnded) continue;
      if (to.write(bytes)) continue;
      from.pause();
      await drained(to);
    }
    way.isMoving = false;
    if (way.hasEnded && !pair.dead) to.end();
    if (this.#fault !== 'stall') from.resume();
  }
}

/** Or gone. */
function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      socket.off('drain', done).off('close', done);
      resolve();
    };
    socket.on('drain', done).on('close', done);
  });
}

function pause({ near, far }: Pair): void {
  near.pause();
  far.pause();
}

function reset({ near, far }: Pair): void {
  far.destroy();
  near.resetAndDestroy();
}
