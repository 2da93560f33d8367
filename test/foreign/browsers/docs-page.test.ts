import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Operations } from '../../../src/openapi/document.ts';
import { startService, type Service } from '../../support/app.ts';
import { describeInBrowsers, type Browser, type Page } from '../../support/browser.ts';
import { eventually } from '../../support/eventually.ts';

const PATIENCE = { every: 50 };

/** What the content security policy stopped, where the browser tells (Firefox does not). */
const BLOCKED = `typeof ReportingObserver === 'undefined' ? [] : new Promise((resolve) => {
  new ReportingObserver((reports) => resolve(reports.map(({ body }) => body.blockedURL + ' ' + body.effectiveDirective)),
    { types: ['csp-violation'], buffered: true }).observe();
  setTimeout(() => resolve([]), 200);
})`;

describeInBrowsers((installed) => {
  let service: Service;
  let browser: Browser;
  beforeAll(async () => {
    [service, browser] = await Promise.all([startService(), installed.start()]);
  });
  afterAll(async () => {
    await browser.close();
    await service.close();
  });

  const open = (path: string): Promise<Page> => browser.open(`${service.url}${path}`);
  const texts = (page: Page, selector: string) =>
    page.evaluate<string[]>(
      `[...document.querySelectorAll(${JSON.stringify(selector)})].map((each) => each.textContent)`,
    );

  test('the API reference shows every operation, with nothing from elsewhere and nothing blocked', async () => {
    const page = await open('/docs#/Publish/publishNotification');
    await eventually(async () => {
      const shown = await texts(page, '.opblock-summary-path');
      expect(shown.map((path) => path.replaceAll('\u200b', '')).toSorted()).toEqual(
        service.app
          .get(Operations)
          .all.map(({ path }) => path)
          .toSorted(),
      );
    }, PATIENCE);
    await eventually(async () => {
      expect((await texts(page, '.opblock-description')).join()).toContain('committed to disk');
    }, PATIENCE);
    expect(await texts(page, '.errors-wrapper, .loading-container .failed-config, .version-pragma')).toEqual(
      [],
    );
    const loaded = await page.evaluate<string[]>(
      `performance.getEntriesByType('resource').map(({ name }) => name)`,
    );
    expect(loaded.length).toBeGreaterThan(3);
    for (const url of loaded.filter((each) => !each.startsWith('data:')))
      expect(url).toContain(`${service.url}/`);
    expect(await page.evaluate(BLOCKED)).toEqual([]);
    await page.close();
  });

  test('the place that the type of a problem names can be seen', async () => {
    const page = await open('/docs/errors#idempotency_mismatch');
    expect(await texts(page, ':target code')).toContain('idempotency_mismatch');
    const top = await page.evaluate<number>(`document.querySelector(':target').getBoundingClientRect().top`);
    expect(top).toBeGreaterThan(-1);
    expect(top).toBeLessThan(await page.evaluate<number>('innerHeight'));
    expect(await page.evaluate(BLOCKED)).toEqual([]);
    await page.close();
  });
});
