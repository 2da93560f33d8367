import { randomInt } from 'node:crypto';
import { createServer, type RequestListener, type Server } from 'node:http';

/** A listener that can be stopped and started again under the same address. */
export interface RestartableServer {
  readonly url: string;
  /** From now on the port refuses connections; those that are open are cut. */
  stop(): Promise<void>;
  start(): Promise<void>;
}

/**
 * Listens on loopback. The port is not one that systems hand out by themselves (those begin at 32768): while this is
 * stopped, nobody else gets it, and a client that tries to connect cannot be connected to itself.
 */
export async function startRestartable(listener: RequestListener, port?: number): Promise<RestartableServer> {
  for (;;) {
    const candidate = port ?? randomInt(20_000, 30_000);
    const server = createServer(listener);
    try {
      await listen(server, candidate);
    } catch (error) {
      if (port === undefined && error instanceof Error && 'code' in error && error.code === 'EADDRINUSE')
        continue;
      throw error;
    }
    return {
      url: `http://127.0.0.1:${candidate}`,
      async stop() {
        if (!server.listening) return;
        await new Promise<void>((resolve) => {
          server.close(() => resolve());
          server.closeAllConnections();
        });
      },
      async start() {
        if (!server.listening) await listen(server, candidate);
      },
    };
  }
}

async function listen(server: Server, port: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => {
      server.off('error', reject);
      resolve();
    });
  });
}
