#!/usr/bin/env -S node --enable-source-maps --max-semi-space-size=16
/** The Node that the project is built for; older ones miss parts of it, and would say so in riddles. */
const NODE_MAJOR = 24;

if (Number.parseInt(process.versions.node, 10) < NODE_MAJOR) {
  console.error(
    `Tidings needs Node ${NODE_MAJOR} or newer, and this is ${process.version}. "npm start" brings the right one along.`,
  );
  process.exitCode = 1;
} else {
  // Imported only now: what it imports does not even load on an older Node.
  const { tidings } = await import('./cli/tidings.ts');
  await tidings(process.argv.slice(2));
}
