/** Commands for the first minute with the service, for a shell in the project's folder. */
export function demo(origin: string, dataDir: string): string {
  const where = dataDir === '.data' ? '' : `DATA_DIR=${quote(dataDir)} `;
  const token = (claims: string) =>
    `"Authorization: Bearer $(${where}npm run --silent token -- --tenant acme ${claims})"`;
  const notification = '{"to":{"user":"alice"},"type":"demo.hello","data":{"text":"Hello, Alice"}}';
  return `
Tidings listens on ${origin} with a secret of its own, for trying things out.
Paste these into another shell, in this folder:

  Listen as the user alice of the tenant acme:

    curl -N -H ${token('--user alice')} ${origin}/v1/stream

  Send her a notification, as the service billing would:

    curl -H ${token('--client billing --scope notifications:publish')} -H 'Content-Type: application/json' -d '${notification}' ${origin}/v1/notifications

  See what reached her, as an operator:

    curl -H ${token('--client ops --scope history:read')} '${origin}/v1/notifications?user=alice'

Ctrl-C stops everything.
`;
}

/** A word for a POSIX shell. */
function quote(text: string): string {
  return /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
