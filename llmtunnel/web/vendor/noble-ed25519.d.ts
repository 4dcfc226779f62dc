// The types of what this project uses of noble-ed25519.js.

export interface EdwardsPoint {
  add(other: EdwardsPoint): EdwardsPoint;
  negate(): EdwardsPoint;
  /** Multiply by a scalar from 1 to the order minus 1. */
  multiply(scalar: bigint): EdwardsPoint;
  is0(): boolean;
  isTorsionFree(): boolean;
  toBytes(): Uint8Array<ArrayBuffer>;
}

export const Point: {
  readonly BASE: EdwardsPoint;
  readonly ZERO: EdwardsPoint;
  readonly Fn: { readonly ORDER: bigint };
  /** Decode a point. Throws if it is not on the curve, or not in its only form. */
  fromHex(hex: string): EdwardsPoint;
};
