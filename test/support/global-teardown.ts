import { run } from './global-setup.ts';

export default async function tearDown(): Promise<void> {
  await run.server?.remove();
}
