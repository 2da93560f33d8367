import { join } from 'node:path';
import { TEST_SECRET } from '../../support/tokens.ts';
import { MERCURE } from '../peers.ts';
import { startPeer } from './peer.ts';
import type { System } from './system.ts';

/** https://mercure.rocks: Server-Sent Events in Go, inside of Caddy. */
export const mercure: System = {
  name: 'mercure',
  contract:
    'answers when the update is on disk (bolt, its default, a transaction each); publishers show a token, streams none',
  peer: MERCURE,
  start: () =>
    startPeer(MERCURE, (home, port) => ({
      file: 'Caddyfile',
      text: configuration(home, port),
      args: ['run', '--config', join(home, 'Caddyfile')],
    })),
};

/*
 * https://mercure.rocks/docs/hub/config and https://caddyserver.com/docs/caddyfile/options, from Mercure 0.17 on. A site without
 * a name serves whatever `host` says. Of the log only errors, as a line for each stream would be an access log. Bolt, and not
 * `local`, because it is the default and the nearest to what Tidings promises.
 *
 * 1.x takes a key of this form, `topic` and the claim `mercure` only where it is told to be compatible, with 7 or 8; 0.x knows
 * 7 alone: https://github.com/dunglas/mercure/blob/main/caddy/mercure.go
 */
const configuration = (home: string, port: number): string => `
{
	admin off
	persist_config off
	log {
		level ERROR
	}
}
http://:${port} {
	bind 127.0.0.1
	mercure {
		transport bolt {
			path ${join(home, 'mercure.db')}
		}
		publisher_jwt "${TEST_SECRET}" HS256
		anonymous
		protocol_version_compatibility 7
	}
}
`;
