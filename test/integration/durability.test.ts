import { expect, test } from '@jest/globals';
import { checkDurability } from '../../src/postgres/open-database.ts';
import { startPostgres } from '../support/postgres-server.ts';

test('a server with fsync off is refused', async () => {
  const server = await startPostgres({ fsync: 'off' });
  try {
    await expect(checkDurability(server.url)).rejects.toThrow(/fsync off/);
  } finally {
    await server.remove();
  }
});

test('a server with full_page_writes off is accepted with a warning', async () => {
  const server = await startPostgres({ full_page_writes: 'off' });
  try {
    expect(await checkDurability(server.url)).toEqual([expect.stringContaining('full_page_writes off')]);
  } finally {
    await server.remove();
  }
});
