//! Stub.
#![allow(missing_docs, unused_variables, clippy::all)]
use std::sync::Arc; use std::task::{Context,Poll}; use afflux_wire::{Attempt,Status,NodeId}; use bytes::Bytes;
#[derive(Clone,PartialEq,Eq,Hash,Debug)] pub struct ChannelKey { pub job: Arc<str>, pub attempt: Attempt, pub edge: u32, pub from: u32, pub to: u32 }
#[derive(Clone)] pub struct Mesh;
pub struct ChannelSender; pub struct ChannelReceiver;
pub enum Mark { Watermark(i64), Idle, Barrier(u64), End }
pub enum Packet { Data{count:u32,payload:Bytes}, Mark(Mark) }
impl Mesh { pub fn channel_sender(&self, p:&NodeId, k:ChannelKey, f:u64)->ChannelSender{ChannelSender} pub fn channel_receiver(&self,k:ChannelKey,f:u64)->ChannelReceiver{ChannelReceiver} }
impl ChannelSender { pub fn poll_ready(&mut self,c:&mut Context<'_>)->Poll<Result<(),Status>>{Poll::Pending} pub fn send(&mut self,c:u32,b:Bytes)->Result<(),Status>{Ok(())} pub fn mark(&mut self,m:Mark)->Result<(),Status>{Ok(())} }
impl ChannelReceiver { pub fn poll_next(&mut self,c:&mut Context<'_>)->Poll<Option<Result<Packet,Status>>>{Poll::Pending} }
