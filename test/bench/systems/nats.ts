import { ownPort } from '../../support/own-port.ts';
import { NATS } from '../peers.ts';
import { launch } from './launch.ts';
import type { System } from './system.ts';
import { startTidings, tidings } from './tidings.ts';

/** Tidings, whose nodes hear one another by NATS. */
export const nats: System = {
  name: 'nats',
  contract: tidings.contract,
  peer: NATS,
  async start(settings, parameters) {
    const port = await ownPort();
    const server = await launch(NATS.program, ['-a', '127.0.0.1', '-p', String(port)], port);
    const running = await startTidings({ ...settings, NATS_URL: `nats://127.0.0.1:${port}` }, parameters);
    return {
      ...running,
      async stop() {
        await running.stop();
        await server.stop();
      },
    };
  },
};
