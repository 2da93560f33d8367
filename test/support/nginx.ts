import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ownPort } from './own-port.ts';
import { startProgram, type Program } from './programs.ts';

export const NGINX = '/usr/sbin/nginx';

const page = readFileSync(new URL('../../docs/how-to/deploy.md', import.meta.url), 'utf8');

/** nginx in front of nodes on these ports, configured as docs/how-to/deploy.md says, but for TLS. */
export async function startNginx(nodes: readonly number[]): Promise<Program & { readonly url: string }> {
  const [, documented = ''] = /```nginx\n([^]*?)```/.exec(page) ?? [];
  const port = await ownPort();
  const servers = nodes.map((node) => `server 127.0.0.1:${node};`).join(' ');
  const site = documented
    .replace(/(?: *server 10\.0\.0\.\d+:3000;\n)+/, `${servers}\n`)
    .replace('listen 443 ssl;', `listen 127.0.0.1:${port} backlog=4096;`)
    .replace(/^ *(?:http2|ssl_certificate|ssl_certificate_key) .*$/gm, '');
  const home = await mkdtemp(join(tmpdir(), 'tidings-nginx-'));
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `${name}_temp_path ${home}/${name};`,
  );
  await writeFile(
    join(home, 'nginx.conf'),
    `${process.getuid?.() === 0 ? 'user root;' : ''}
    daemon off; worker_processes 1; worker_rlimit_nofile 20000; pid ${home}/nginx.pid;
    events { worker_connections 9000; }
    http { access_log off; ${temporary.join(' ')}
    ${site} }`,
  );
  const program = await startProgram(
    [NGINX, '-p', home, '-c', 'nginx.conf', '-e', join(home, 'error.log')],
    port,
  );
  return {
    url: `http://127.0.0.1:${port}`,
    end: async () => {
      await program.end();
      await rm(home, { recursive: true, force: true });
    },
  };
}
