import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { launchConfigured } from './configured.ts';
import type { System } from './system.ts';

/** Where Debian and its relatives put it. */
const MODULE = '/usr/lib/nginx/modules/ngx_nchan_module.so';
const PROGRAM = '/usr/sbin/nginx';

/** https://nchan.io: Server-Sent Events in C, inside of nginx. */
export const nchan: System = {
  name: 'nchan',
  contract: 'answers when the message is in memory; no token is checked; nothing is stored',
  async start() {
    if (!existsSync(MODULE))
      throw new Error('nchan is not installed; on Debian: apt-get install nginx libnginx-mod-nchan');
    return await launchConfigured(PROGRAM, (home, port) => ({
      file: 'nginx.conf',
      text: configuration(home, port),
      args: ['-p', home, '-c', 'nginx.conf', '-e', join(home, 'error.log')],
    }));
  },
};

/* One worker, as Tidings is one process. Who comes gets what is published from then on, and nothing older. */
const configuration = (home: string, port: number): string => `
load_module ${MODULE};
${process.getuid?.() === 0 ? 'user root;' : ''}
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid ${home}/nginx.pid;
events { worker_connections 19000; }
http {
  access_log off;
  keepalive_requests 1000000;
  client_body_temp_path ${home}/body;
  proxy_temp_path ${home}/proxy;
  fastcgi_temp_path ${home}/fastcgi;
  uwsgi_temp_path ${home}/uwsgi;
  scgi_temp_path ${home}/scgi;
  nchan_shared_memory_size 256m;
  server {
    listen 127.0.0.1:${port} backlog=4096;
    location ~ ^/subscribe/(.+)$ {
      nchan_subscriber eventsource;
      nchan_channel_id $1;
      nchan_subscriber_first_message newest;
    }
    location ~ ^/publish/(.+)$ {
      nchan_publisher;
      nchan_channel_id $1;
    }
  }
}
`;
