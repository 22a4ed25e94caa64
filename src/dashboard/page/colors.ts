/** What a canvas understands of a colour of the style sheet, which depends on the scheme: `--read`. */
export function resolveColor(element: HTMLElement, name: string): string {
  element.style.color = getComputedStyle(document.documentElement).getPropertyValue(name);
  const resolved = getComputedStyle(element).color;
  element.style.color = '';
  return resolved;
}
