/** Icons, drawn with lines on 24 by 24. */

const PATHS = {
  back: "M15 5l-7 7 7 7",
  close: "M6 6l12 12M18 6L6 18",
  bell: "M6 16.500V11a6 6 0 0 1 12 0v5.500l1.500 1.500h-15zM10 20.500a2 2 0 0 0 4 0",
  download: "M12 4v11M7 10.500l5 5 5-5M5 20h14",
  at: "M12 8.500a3.500 3.500 0 1 0 0 7 3.500 3.500 0 0 0 0-7zM15.500 12v1.500a2.500 2.500 0 0 0 5 0V12a8.500 8.500 0 1 0-3.500 6.900",
  plus: "M12 5v14M5 12h14",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16.200 16.200L20.500 20.500",
  send: "M4.500 12L3 4.500 21 12 3 19.500 4.500 12zM4.500 12H12",
  more: "M12 5.500v.01M12 12v.01M12 18.500v.01",
  check: "M5 12.500l4.500 4.500L19 7.500",
  down: "M12 5v14M6 13l6 6 6-6",
  clock: "M12 3.500a8.500 8.500 0 1 0 0 17 8.500 8.500 0 0 0 0-17zM12 7.500V12l3 2",
  clip: "M20 11.500l-8.200 8.200a5 5 0 0 1-7-7l8.400-8.500a3.300 3.300 0 0 1 4.700 4.700l-8.300 8.400a1.700 1.700 0 0 1-2.400-2.400l7.600-7.700",
  reply: "M9 7L4 12l5 5M4 12h9a7 7 0 0 1 7 7",
  edit: "M4 20l1-4.500L16.500 4a2.100 2.100 0 0 1 3 3L8.500 19 4 20z",
  trash: "M4.500 7h15M9.500 7V4.500h5V7M6.500 7l1 13h9l1-13",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  smile: "M12 3.500a8.500 8.500 0 1 0 0 17 8.500 8.500 0 0 0 0-17zM8.500 14.500a4.500 4.500 0 0 0 7 0M9 9.500v.01M15 9.500v.01",
  people: "M9 5a3.500 3.500 0 1 0 0 7 3.500 3.500 0 0 0 0-7zM2.500 20a6.500 6.500 0 0 1 13 0M16 5.300a3.500 3.500 0 0 1 0 6.400M18 14.200a6.500 6.500 0 0 1 3.500 5.800",
  person: "M12 4a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM4.500 20.500a7.500 7.500 0 0 1 15 0",
  block: "M12 3.500a8.500 8.500 0 1 0 0 17 8.500 8.500 0 0 0 0-17zM6 6l12 12",
  gear: "M12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM19 12a7 7 0 0 0-.1-1.200l2-1.600-2-3.400-2.400 1a7 7 0 0 0-2-1.200L14 3h-4l-.4 2.600a7 7 0 0 0-2 1.200l-2.500-1-2 3.400 2 1.600a7 7 0 0 0 0 2.400l-2 1.600 2 3.400 2.400-1a7 7 0 0 0 2.100 1.200L10 21h4l.4-2.600a7 7 0 0 0 2-1.200l2.500 1 2-3.400-2-1.600A7 7 0 0 0 19 12z",
  warning: "M12 4L2.500 20h19L12 4zM12 10v4.500M12 17.300v.01",
  cloud: "M4 4l16 16M8.500 8A5.500 5.500 0 0 0 7 19h10.500M11 6.200A5.500 5.500 0 0 1 17 11a4 4 0 0 1 3.500 6",
  file: "M6 3.500h8l4.500 4.500v12.500H6zM14 3.500V8h4.500",
};

export function icon(name) {
  return drawing([PATHS[name]], "0 0 24 24", `icon icon-${name}`);
}

/** One tick, or two. */
export function ticks(count) {
  return drawing(count === 2 ? ["M1 8.500L4.500 12 11 4.500", "M9.500 11.500L10 12 17 4.500"] : ["M4 8.500L7.500 12 14.500 4.500"], "0 0 18 16", "ticks");
}

function drawing(paths, viewBox, className) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", viewBox);
  svg.setAttribute("class", className);
  svg.setAttribute("aria-hidden", "true");
  for (const d of paths) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}
