/* https://chromedevtools.github.io/devtools-protocol/v8/ */

interface Usage {
  readonly usedSize: number;
  readonly embedderHeapUsedSize: number;
  readonly backingStorageSize: number;
}

/** What a Node process that was started with `--inspect` keeps after a collection, in bytes. */
export async function heapOf(inspector: string): Promise<number> {
  const socket = new WebSocket(inspector);
  await new Promise((resolve, reject) => {
    socket.addEventListener('open', resolve);
    socket.addEventListener('error', () => reject(new Error(`nobody answers at ${inspector}`)));
  });
  const ask = <Result>(method: string): Promise<Result> =>
    new Promise((resolve) => {
      socket.addEventListener(
        'message',
        ({ data }) => resolve((JSON.parse(String(data)) as { result: Result }).result),
        { once: true },
      );
      socket.send(JSON.stringify({ id: 1, method }));
    });
  try {
    await ask('HeapProfiler.collectGarbage');
    const { usedSize, embedderHeapUsedSize, backingStorageSize } = await ask<Usage>('Runtime.getHeapUsage');
    return usedSize + embedderHeapUsedSize + backingStorageSize;
  } finally {
    socket.close();
  }
}
