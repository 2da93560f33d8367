import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { expect, test } from '@jest/globals';

const root = resolve(import.meta.dirname, '../..');

const pagesBelow = (folder: string) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => join(folder, name));
const docs = pagesBelow('docs');
const pages = ['README.md', 'CONTRIBUTING.md', 'test/bench/README.md', ...docs];

const read = (page: string) => readFileSync(join(root, page), 'utf8');

/** The page without its code, where brackets are no links. */
const prose = (page: string) =>
  read(page)
    .replaceAll(/^```.*?^```$/gms, '')
    .replaceAll(/``.+?``|`[^`\n]*`/g, '');

interface Link {
  readonly page: string;
  readonly target: string;
}

const links: Link[] = pages.flatMap((page) =>
  [...prose(page).matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, target = '']) =>
    /^[a-z]+:/.test(target) ? [] : [{ page, target }],
  ),
);

/** The file that a link leads to, from the root of the project. */
function fileOf({ page, target }: Link): string {
  const [path = ''] = target.split('#');
  return path === '' ? page : relative(root, resolve(root, dirname(page), path));
}

/** What GitHub makes of the headings of a page: lower case, spaces to hyphens, no punctuation, a number for a repeated one. */
function anchorsOf(page: string): Set<string> {
  const anchors = new Set<string>();
  const text = read(page).replaceAll(/^```.*?^```$/gms, '');
  for (const [, heading = ''] of text.matchAll(/^#{1,6} (.+)$/gm)) {
    const anchor = heading
      .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(' ', '-');
    let unique = anchor;
    for (let again = 1; anchors.has(unique); again++) unique = `${anchor}-${again}`;
    anchors.add(unique);
  }
  return anchors;
}

test('links lead to files that there are', () => {
  expect(links.filter((link) => !existsSync(join(root, fileOf(link))))).toEqual([]);
});

test('anchors are headings of the page that they are on', () => {
  const broken = links.filter((link) => {
    const [, anchor] = link.target.split('#');
    const file = fileOf(link);
    if (anchor === undefined || !file.endsWith('.md') || !existsSync(join(root, file))) return false;
    return !anchorsOf(file).has(anchor);
  });
  expect(broken).toEqual([]);
});

test('every page and picture of the documentation is linked from another page', () => {
  const linked = new Set(links.filter((link) => fileOf(link) !== link.page).map(fileOf));
  const pictures = readdirSync(join(root, 'docs/performance')).map((name) => join('docs/performance', name));
  const lost = [...docs, ...pictures].filter((file) => !linked.has(file));
  expect(lost).toEqual([]);
});

test('files of the source that a page names are there', () => {
  const broken = pages.flatMap((page) =>
    [...read(page).matchAll(/`((?:src|migrations|test|scripts)\/[\w./-]+)`/g)].flatMap(([, file = '']) =>
      existsSync(join(root, file)) ? [] : [{ page, file }],
    ),
  );
  expect(broken).toEqual([]);
});

test('what the source says of a page of the documentation is where that page is', () => {
  const sources = ['src', 'migrations', 'test', 'scripts', 'docker'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .map((name) => join(folder, name))
      .filter((name) => /\.(?:ts|mjs|sh)$/.test(name) && statSync(join(root, name)).isFile()),
  );
  const files = [...sources, 'docker-compose.yml', 'Dockerfile', '.env.example'];
  const broken = files.flatMap((file) =>
    [...read(file).matchAll(/(?<![\w/.])docs\/[\w./-]+\.(?:md|js|svg)/g)]
      .map(([page]) => page)
      .filter((page) => !existsSync(join(root, page)))
      .map((page) => ({ file, page })),
  );
  expect(broken).toEqual([]);
});
