import { join } from 'node:path';
import { TEST_SECRET } from '../../support/tokens.ts';
import { CENTRIFUGO } from '../peers.ts';
import { startPeer } from './peer.ts';
import type { System } from './system.ts';

/** https://centrifugal.dev: channels in Go. Its Server-Sent Events in one direction, as those of all others here. */
export const centrifugo: System = {
  name: 'centrifugo',
  contract:
    'answers when the message is in memory; publishers show a key, every stream a token; nothing is stored',
  peer: CENTRIFUGO,
  start: () =>
    startPeer(CENTRIFUGO, (home, port) => ({
      file: 'config.json',
      text: JSON.stringify(configuration(port), null, 1),
      args: ['--config', join(home, 'config.json')],
    })),
};

/*
 * The names of version 6 (5 has them flat): https://centrifugal.dev/docs/server/configuration. The engine is the default, memory,
 * and a channel without `history_size` keeps nothing.
 */
const configuration = (port: number) => ({
  http_server: { address: '127.0.0.1', port },
  log: { level: 'error' },
  client: { token: { hmac_secret_key: TEST_SECRET } },
  http_api: { key: TEST_SECRET },
  uni_sse: { enabled: true },
  usage_stats: { disabled: true },
});
