/** Whether a host, as `URL.hostname` has it, is this machine: what goes there over plain http is read by nobody else. */
export const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '[::1]' || /^127(?:\.\d+){3}$/.test(host);
