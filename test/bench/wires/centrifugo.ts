import { post } from '../../load/caller.ts';
import { sign } from '../../support/tokens.ts';
import { CENTRIFUGO, reach } from '../peers.ts';
import { get, type To, type Wire } from './wire.ts';

const server = reach(CENTRIFUGO);
const secret = server.secret('CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY');
const HEADERS = {
  host: server.site,
  'x-api-key': server.secret('CENTRIFUGO_HTTP_API_KEY'),
  // Without this, what went wrong is answered with 200: https://centrifugal.dev/docs/server/server_api
  'x-centrifugo-error-mode': 'transport',
};

/* In s; longer than a run takes. */
const TOKEN_LIFE = 3 * 3_600;
const exp = Math.floor(Date.now() / 1_000) + TOKEN_LIFE;

const channelOf = (to: To): string => (to === 'everyone' ? to : `user-${to}`);

export const centrifugo: Wire = {
  host: server.host,
  subscription(n, to) {
    const channels = [channelOf(to === 'everyone' ? to : n)];
    // A stream of the channels that its token names: https://centrifugal.dev/docs/server/server_subs
    const token = sign({ sub: `user-${n}`, channels, exp }, { alg: 'HS256', typ: 'JWT' }, secret);
    const connect = encodeURIComponent(JSON.stringify({ token }));
    return {
      // https://centrifugal.dev/docs/transports/uni_sse
      request: get(`/connection/uni_sse?cf_connect=${connect}`, server.site),
      // In the first message, which names what was subscribed: https://centrifugal.dev/docs/transports/uni_client_protocol
      ready: '"subs":{',
    };
  },
  publish: (to, data) => post('/api/publish', `{"channel":"${channelOf(to)}","data":${data}}`, HEADERS),
};
